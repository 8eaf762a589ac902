"""What moves the log: gateway, worker, dispatch, project, emit, in flow order. Open `topology.py` first."""
