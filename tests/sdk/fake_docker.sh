#!/bin/sh
# Takes the commands of `docker` that the server gives. A container is a process of this machine; there is one image once
# it has been pulled. What it was told is in $FAKE_DOCKER/commands.
folder=$(dirname "$0")
echo "$*" >> "$folder/commands"
verb=$1
shift
case "$verb" in
  image) test -e "$folder/pulled" ;;
  pull)
    case "$*" in
      *nowhere*) echo "Error response from daemon: manifest unknown" >&2; exit 1 ;;
    esac
    : > "$folder/pulled" ;;
  run)
    # Options, the image, then what is for the boot program.
    while [ "${1#-}" != "$1" ]; do shift; done
    shift
    exec "$(cat "$folder/boot")" "$@" ;;
  rm) ;;
  *) echo "unknown command $verb" >&2; exit 125 ;;
esac
