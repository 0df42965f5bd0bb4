#!{folder}/libexec/sh
# git of the layer: where its own parts are. What the user or the base says stays.
here={folder}
export GIT_EXEC_PATH="${GIT_EXEC_PATH-$here/libexec/git-core}"
if [ ! -d /usr/share/git-core/templates ]; then
    export GIT_TEMPLATE_DIR="${GIT_TEMPLATE_DIR-$here/share/git-core/templates}"
fi
# Debian's curl looks for certificates in one place only; other bases keep them in others.
if [ -z "${GIT_SSL_CAINFO+x}${GIT_SSL_CAPATH+x}" ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
    for ca in /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem \
        $here/python/site/certifi/cacert.pem; do
        [ -e "$ca" ] && export GIT_SSL_CAINFO="$ca" && break
    done
fi
exec "$here/libexec/git-core/git" "$@"
