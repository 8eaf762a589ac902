#!/bin/sh
# Logs in to Mailfold's own database as its role, by password; the health check of docker-compose.yml. By the container's
# own name and not by 127.0.0.1, where the image's server asks for no password.
set -eu
PGPASSWORD="$MAILFOLD_DATABASE_PASSWORD" PGCONNECT_TIMEOUT=4 \
    psql --host "${PGHOST:-$(hostname)}" --username mailfold --dbname mailfold --no-psqlrc --no-password --quiet \
    --output /dev/null --command 'select 1'
