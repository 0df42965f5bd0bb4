#!{folder}/libexec/sh
# tmux of the layer: where its locale is, which it does not start without, and its terminals' descriptions, which
# a client that has a terminal needs. Its configuration takes both from what it starts: panes are the base's.
# -u: clients write UTF-8 in every locale, as libtmux reads it.
here={folder}
if [ -z "${LOCPATH+x}" ]; then
    export LOCPATH="$here/share/locale"
fi
if [ -t 0 ] && [ -z "${TERMINFO_DIRS+x}" ]; then
    export TERMINFO_DIRS=":$here/share/terminfo"
fi
exec "$here/libexec/tmux" -u -f "$here/share/tmux.conf" "$@"
