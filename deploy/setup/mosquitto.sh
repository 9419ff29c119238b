#!/bin/sh
# Install Debian's mosquitto when it is missing and this user may; otherwise say what follows.
set -u
if command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "== mosquitto is not installed and cannot be installed from here:"
    echo "   agents will use the gRPC session. For MQTT: apt-get install mosquitto"
    exit 0
fi
echo "== Installing mosquitto"
export DEBIAN_FRONTEND=noninteractive
if (apt-get -qq update && apt-get -qq install -y --no-install-recommends mosquitto) >/tmp/fitment-apt.log 2>&1; then
    echo "   done"
else
    echo "   failed (see /tmp/fitment-apt.log): agents will use the gRPC session"
fi
exit 0
