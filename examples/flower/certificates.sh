#!/usr/bin/env bash
# A certificate authority of one's own and a certificate for this machine, for trying out.
# usage: certificates.sh FOLDER [NAME-OR-ADDRESS...]
set -euo pipefail
folder=${1:?usage: certificates.sh FOLDER [NAME-OR-ADDRESS...]}
shift
mkdir -p "$folder"
cd "$folder"
names="DNS:localhost,IP:127.0.0.1"
for name in "$@"; do
    if [[ $name =~ ^[0-9.]+$ ]]; then names+=",IP:$name"; else names+=",DNS:$name"; fi
done
umask 077
openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj "/CN=federation" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey rsa:3072 -nodes -subj "/CN=superlink" -keyout server.key -out server.csr \
    2>/dev/null
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names") \
    -out server.pem 2>/dev/null
rm server.csr
echo "ca.pem (for the nodes), server.pem and server.key (for the superlink) are in $folder"
