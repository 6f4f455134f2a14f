#!/bin/sh
# Writes a kubeconfig for a service account of the namespace breakglass, with the API server and the CA of kubectl's current context:
#
#   policies/kubernetes/kubeconfig.sh breakglassd       clusters/prod-eu-1.kubeconfig           # kubeconfig_file
#   policies/kubernetes/kubeconfig.sh breakglass-recert clusters/prod-eu-1-recert.kubeconfig    # scan_kubeconfig_file
#
# The token is asked for a year, or for the third argument (such as 720h); the API server may give less. Run it again before it ends:
# the daemon reads the file again when it changes, and `breakglassd doctor` says how long the token is good.
set -eu

die() { echo "kubeconfig.sh: $*" >&2; exit 1; }

{ [ $# -ge 2 ] && [ $# -le 3 ]; } || die "usage: kubeconfig.sh ACCOUNT FILE [DURATION]"
account=$1 file=$2 duration=${3:-8760h}
field() { kubectl config view --minify --flatten -o "jsonpath={.clusters[0].cluster.$1}"; }

server=$(field server)
ca=$(field certificate-authority-data)
name=$(field tls-server-name)
[ -n "$server" ] || die "kubectl has no current context: set KUBECONFIG, or kubectl config use-context"
[ -n "$ca" ] || die "the cluster of kubectl's current context names no CA: the daemon takes no other way to know the API server"
umask 077
mkdir -p "$(dirname "$file")"
new=$(mktemp "$file.XXXXXX") || die "no file could be made beside $file"
trap 'rm -f "$new"' EXIT
token=$(kubectl --namespace breakglass create token "$account" --duration "$duration") ||
  die "no token for $account: kubectl apply -f policies/kubernetes/ makes breakglassd, -f policies/kubernetes/optional/recert.yaml breakglass-recert"
cat >"$new" <<EOF
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: $server
      certificate-authority-data: $ca${name:+
      tls-server-name: $name}
users:
  - name: $account
    user:
      token: $token
contexts:
  - name: $account
    context: {cluster: cluster, user: $account}
current-context: $account
EOF
mv "$new" "$file"
trap - EXIT
echo "wrote $file: $account at $server" >&2
