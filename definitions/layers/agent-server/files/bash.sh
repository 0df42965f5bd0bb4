#!{folder}/libexec/sh
# bash of the layer, for a base that has none. With a person or a server at a terminal it echoes what is typed
# as it is only in a locale with UTF-8: where nobody has chosen one, it gets that of the layer, and its own
# settings take the words back from what it starts.
here={folder}
if [ "$*" = -i ] && [ -z "${LC_ALL+x}${LC_CTYPE+x}${LANG+x}${LOCPATH+x}" ]; then
    export LC_CTYPE=C.UTF-8 LOCPATH="$here/share/locale"
    set -- --rcfile "$here/share/bashrc" -i
fi
exec "$here/libexec/bash" "$@"
