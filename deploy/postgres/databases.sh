#!/bin/sh
# Runs once, on an empty data folder: a database and a user of its own for each of the three programs.
set -eu
for name in dethrone airflow labelstudio; do
    psql --quiet --set ON_ERROR_STOP=1 --username postgres --set name="$name" \
        --set password="$(cat "/run/secrets/postgres_${name}_password")" <<'SQL'
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
