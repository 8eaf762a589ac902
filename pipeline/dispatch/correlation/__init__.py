"""Find the email of provider events that name none, by the message id that the provider gave our message."""
