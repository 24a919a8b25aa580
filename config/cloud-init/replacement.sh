#!/bin/bash
# User data of a replacement that boots on the copied volume of another server. cloud-init runs it once, at the
# first boot. Reaper fills in @SERVER_ID@, @DEVICE@, @CLUSTER@ and @NAME@; everything else is for the site to change.
#
# The image has the server installed and enabled, its data directory on a volume of its own, and a my.cnf that says
# everything that all servers of the site share. What is true of this one only is written here:
#   * an identity that no other server of the cluster ever had (E14, E29),
#   * read-only and with replication not started, whatever the copied files say (E08, E30).
set -eu

: "${REAPER_DATA:=/var/lib/mysql}"                             # the data directory, on the copied volume
: "${REAPER_CONFIG:=/etc/mysql/conf.d/zz-reaper.cnf}"          # read after everything else
: "${REAPER_MOUNT:=yes}"                                       # no: somebody else mounts the volume
: "${REAPER_SERVICE:=$(systemctl list-unit-files --no-legend mariadb.service mysql.service mysqld.service \
  2>/dev/null | awk 'NR == 1 { print $1 }')}"

# The volume was attached as @DEVICE@. On Nitro instances the kernel calls it something else, and the controller
# tells (bytes 3072 to 3104 of "Identify Controller") what EC2 calls it.
device() {
  local wanted=@DEVICE@ disk said
  if [ -b "$wanted" ]; then echo "$wanted"; return; fi
  if [ -b "/dev/xvd${wanted: -1}" ]; then echo "/dev/xvd${wanted: -1}"; return; fi
  for disk in /dev/nvme?n1 /dev/nvme??n1; do
    [ -b "$disk" ] || continue
    said=$(nvme id-ctrl --raw-binary "$disk" 2>/dev/null | cut -c3073-3104 | tr -d ' \0') || continue
    if [ "$said" = "$wanted" ] || [ "/dev/$said" = "$wanted" ]; then echo "$disk"; return; fi
  done
  return 1
}

if [ "$REAPER_MOUNT" = yes ]; then
  [ -z "$REAPER_SERVICE" ] || systemctl stop "$REAPER_SERVICE"
  if ! mountpoint -q "$REAPER_DATA"; then
    disk=$(device)
    mkdir -p "$REAPER_DATA"
    mount -o noatime "$disk" "$REAPER_DATA"
    echo "UUID=$(blkid -s UUID -o value "$disk") $REAPER_DATA $(blkid -s TYPE -o value "$disk") noatime,nofail 0 2" \
      >> /etc/fstab
  fi
fi

# Who the copied server was: its UUID, what was set with PERSIST or in its last minutes, whom it followed.
rm -f "$REAPER_DATA"/auto.cnf "$REAPER_DATA"/mysqld-auto.cnf* "$REAPER_DATA"/*.pid "$REAPER_DATA"/*.sock* \
  "$REAPER_DATA"/master*.info "$REAPER_DATA"/multi-master.info "$REAPER_DATA"/relay*

mkdir -p "$(dirname "$REAPER_CONFIG")"
cat > "$REAPER_CONFIG" <<'EOF'
# Written by reaper at the first boot of @NAME@ in @CLUSTER@.
[mysqld]
server-id = @SERVER_ID@
read-only = ON
skip-slave-start
relay-log = relay
EOF

[ -z "$REAPER_SERVICE" ] || [ "$REAPER_MOUNT" != yes ] || systemctl start "$REAPER_SERVICE"
