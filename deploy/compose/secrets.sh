#!/bin/sh
# Makes deploy/compose/secrets: passwords by chance, the API key as you type it. What is there stays.
# A proxy runs as user 10001 and Redis as 999; the files belong to them, and nobody else reads them.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets

make_one() { [ -s "$1" ] || head -c 32 /dev/urandom | base64 | tr -d '\n=+/' >"$1"; }

make_one admin-token
make_one redis-password
make_one grafana-password
printf 'user default on >%s ~glm-proxy* &* +@all -@admin -@dangerous\n' "$(cat redis-password)" >redis-users
if [ ! -s glm-api-key ]; then
    printf 'Key of the GLM API: ' >&2
    stty -echo 2>/dev/null || :
    IFS= read -r key
    stty echo 2>/dev/null || :
    printf '%s' "$key" >glm-api-key
fi
if [ "$(id -u)" = 0 ]; then
    chown 10001 glm-api-key admin-token redis-password
    chown 999 redis-users
    chown 472 grafana-password
else
    echo "Not root: the files stay yours. Run it by sudo, or the containers cannot read them." >&2
fi
