#!{folder}/libexec/sh
# tmux of the layer. A client believes the locale's word for its terminal's characters; -u: they are UTF-8, in
# every locale (libtmux parses what it prints).
here={folder}
# The entry of the terminal that it is shown in is needed by a client with one, and by no other.
if [ -t 0 ] && [ -z "${TERMINFO_DIRS+x}" ]; then
    export TERMINFO_DIRS=":$here/share/terminfo"
fi
exec "$here/libexec/tmux" -u "$@"
