#!/bin/sh
# Runs from the bundle's root: project-conf.d/ and server-applications/ are beside it.
set -e
here=$(dirname "$0")/..
cp "$here/project-conf.d/app.env" /etc/website.env
cp "$here/server-applications/nginx/website.conf" /etc/nginx/conf.d/website.conf
systemctl reload nginx
