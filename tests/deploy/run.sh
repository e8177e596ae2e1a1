#!/bin/sh
# Python with PyYAML where deploy/tools/install.sh has put one; what a test lacks it says itself.
python=$(deploy/tools/install.sh --where)/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$@"
