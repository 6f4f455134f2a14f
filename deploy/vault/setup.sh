#!/bin/sh
# Sets up Vault for breakglassd: for each cluster a PKI mount of its own with a CA key that never leaves Vault, the roles and
# the policy that ship, and an AppRole to log in with. Run it again at any time: it brings everything back to what it
# describes, and it never makes a second CA or replaces one. OpenBao is set up in the same way.
#
# Needs the vault CLI (or OpenBao's bao, where there is no vault), VAULT_ADDR and an administrator's token (VAULT_TOKEN or
# `vault login`). Each run describes all clusters of one daemon, because its policy is written as a whole: a run that leaves one
# out is refused, unless --drop names it.
set -eu

usage() {
  cat <<'EOF'
usage: setup.sh --mount PATH [--group GROUP]... [--issuer REF] [--max-ttl TTL] [--mount PATH ...] [options]

for each cluster:
  --mount PATH         PKI mount, made if it does not exist. What follows belongs to it, up to the next --mount
  --group GROUP        also make a role for group mode, such as breakglass:api-rescue; may be repeated
  --issuer REF         sign with this existing issuer of the mount (an imported CA, or the next one in a rotation)
  --max-ttl TTL        longest lifetime over the profiles of the cluster, such as 15m or 1h (default 1h)
  --key-bits N         256 or 384: the elliptic curve of a new CA key (default 256, which signs about twice as fast)

for all:
  --out DIR            where the CA certificates are written, as MOUNT-ca.pem (default .)
  --drop MOUNT         take the signing right from a mount that the policy has and this run does not name; may be repeated.
                       MOUNT:GROUP takes it from one group of a mount
  --ca-ttl TTL         lifetime of a new CA (default 17520h: two years)
  --policy NAME        name of the policy (default breakglassd)
  --approle PATH       mount of the AppRole engine (default approle)
  --approle-name NAME  name of the AppRole (default breakglassd)
  --no-approle         do not touch AppRole: the daemon gets its token in a file
  --token-period TTL   the token ends when it is not renewed for so long (default 30m)
  --bound-cidrs LIST   take login and token from these addresses only, such as 10.1.2.3/32,10.1.2.4/32
  --secret-id-file F   make a secret id now and write it to F (mode 0600); otherwise the command is printed
  --sign-rate N        let Vault refuse more than N signatures a second on each mount, which bounds a stolen token
  --files DIR          the shipped files (default: policies/vault beside this script's directory)
EOF
}

die() { echo "setup.sh: $*" >&2; exit 1; }
say() { echo "setup.sh: $*" >&2; }

# matches TEXT ERE: the whole text, on one line
matches() {
  [ "$(printf '%s\n' "$1" | wc -l)" -eq 1 ] && printf '%s\n' "$1" | grep -Eq "^($2)\$"
}

# seconds DURATION: 90, 90s, 15m or 1h as a number
seconds() {
  matches "$1" '[1-9][0-9]{0,8}[smh]?' || die "duration \"$1\" must be like 900s, 15m or 1h"
  n=${1%[smh]}
  case $1 in
    *m) n=$((n * 60)) ;;
    *h) n=$((n * 3600)) ;;
  esac
  echo "$n"
}

files=$(cd "$(dirname "$0")" && pwd)/../../policies/vault
out=. ca_ttl=17520h policy=breakglassd approle=approle approle_name=breakglassd with_approle=yes
period=30m cidrs='' secret_file='' rate=''
# One line for each cluster: PATH ISSUER MAX_TTL KEY_BITS GROUP... (no blanks in any of them; "-" is no issuer)
plan='' mount='' issuer=- max_ttl=1h key_bits=256 groups='' drops=''

mount_done() {
  [ -n "$mount" ] || return 0
  secs=$(seconds "$max_ttl") || exit 1
  [ "$secs" -ge 60 ] || die "--max-ttl $max_ttl is under a minute"
  plan="$plan$mount $issuer $secs $key_bits$groups
"
  issuer=- max_ttl=1h key_bits=256 groups=''
}

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --no-approle) with_approle=no; shift; continue ;;
  esac
  [ $# -ge 2 ] || { usage >&2; die "$1 needs a value"; }
  case $1 in
    --group | --issuer | --max-ttl | --key-bits) [ -n "$mount" ] || die "$1 belongs to a --mount, which comes first" ;;
  esac
  case $1 in
    --mount)
      mount_done
      matches "$2" '[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*' || die "mount \"$2\" must be a plain path"
      case "
$plan" in *"
$2 "*) die "mount $2 is given twice" ;; esac
      mount=$2 ;;
    --group)
      matches "$2" 'breakglass:[a-z0-9][a-z0-9._-]{0,49}' || die "group \"$2\" must be breakglass: and 1 to 50 characters of a-z 0-9 . _ -"
      [ "$2" != breakglass:canary ] || die "group $2 is not possible: its role would be that of the canary; choose another name"
      groups="$groups $2" ;;
    --issuer)
      matches "$2" '[A-Za-z0-9][A-Za-z0-9._-]*' && [ "$2" != default ] || die "issuer \"$2\" must be an issuer's name or id"
      issuer=$2 ;;
    --max-ttl) max_ttl=$2 ;;
    --key-bits) matches "$2" '256|384' || die "key bits \"$2\" must be 256 or 384"; key_bits=$2 ;;
    --drop)
      matches "$2" '[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:breakglass:[a-z0-9][a-z0-9._-]{0,49})?' ||
        die "--drop \"$2\" must be a mount, or a mount, a colon and a group"
      drops="$drops $2" ;;
    --out) out=$2 ;;
    --ca-ttl) ca_ttl=$(seconds "$2") || exit 1 ;;
    --policy) matches "$2" '[a-z0-9][a-z0-9._-]*' || die "policy name \"$2\" must be of a-z 0-9 . _ -"; policy=$2 ;;
    --approle) matches "$2" '[A-Za-z0-9][A-Za-z0-9._/-]*' || die "AppRole mount \"$2\" must be a plain path"; approle=$2 ;;
    --approle-name) matches "$2" '[A-Za-z0-9][A-Za-z0-9._-]*' || die "AppRole name \"$2\" must be a plain name"; approle_name=$2 ;;
    --token-period) period=$(seconds "$2") || exit 1 ;;
    --bound-cidrs) matches "$2" '[0-9A-Fa-f:.,/]+' || die "addresses \"$2\" must be like 10.1.2.3/32,10.1.2.4/32"; cidrs=$2 ;;
    --secret-id-file) secret_file=$2 ;;
    --sign-rate) matches "$2" '[1-9][0-9]*' || die "rate \"$2\" must be a whole number"; rate=$2 ;;
    --files) files=$2 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift 2
done
mount_done
[ -n "$plan" ] || { usage >&2; die "at least one --mount is needed"; }
for f in breakglassd.hcl roles/breakglass.json roles/breakglass-group.json roles/breakglass-canary.json; do
  [ -r "$files/$f" ] || die "$files/$f is missing: give the directory of the shipped files with --files"
done
if ! command -v vault >/dev/null; then
  command -v bao >/dev/null || die "neither the vault CLI nor OpenBao's bao is on the PATH"
  vault() { bao "$@"; }
fi
vault token lookup >/dev/null || die "Vault does not know this token: set VAULT_ADDR and VAULT_TOKEN, or run vault login"
mkdir -p "$out"

# role_of GROUP: the same rule as in the daemon
role_of() { echo "breakglass-${1#breakglass:}"; }

# quiet COMMAND...: its output only when it fails
quiet() {
  if ! said=$("$@" 2>&1); then
    printf '%s\n' "$said" >&2
    die "this did not work: $1 $2 $3 ..."
  fi
}

# covered: the signing rights in the policy that is there, one a line: MOUNT/sign/ROLE
covered() {
  vault policy read "$policy" 2>/dev/null | sed -n 's|^path "\([^"*+]*/sign/breakglass[^"*+]*\)".*|\1|p' | grep -v '/issuer/' || true
}

# refuse_to_drop: stops when the policy that is there lets sign for what this run does not name
refuse_to_drop() {
  lost=''
  for right in $(covered); do
    m=${right%/sign/*} role=${right##*/sign/} kept=no
    if [ "$role" = breakglass ]; then what=$m; else what=$m:breakglass:${role#breakglass-}; fi
    for d in $drops; do
      if [ "$d" = "$m" ] || [ "$d" = "$what" ]; then kept=yes; fi
    done
    while read -r pm _ _ _ pgroups; do
      [ "$pm" = "$m" ] || continue
      if [ "$role" = breakglass ]; then kept=yes; fi
      for g in $pgroups; do
        if [ "$(role_of "$g")" = "$role" ]; then kept=yes; fi
      done
    done <<END
$plan
END
    [ "$kept" = yes ] || lost="$lost $what"
  done
  [ -z "$lost" ] || die "the policy $policy also lets the daemon sign for:$lost. This run does not name them, and would switch them off.
Give every --mount and --group of the daemon in one run, or say --drop for what is meant to go. Nothing was changed."
}

# section NUMBER: one of the three parts of the shipped policy
section() {
  awk -v want="$1" 'BEGIN { n = 1 } /^# --- for each (mount|role) ---$/ { n++; next } n == want' "$files/breakglassd.hcl"
}

# setup_mount PATH ISSUER KEY_BITS: sets issuer_id and unknown, a sed script that takes out the role fields which the server has not
setup_mount() {
  if type=$(vault read -field=type "sys/mounts/$1" 2>/dev/null); then
    [ "$type" = pki ] || die "$1 is a $type engine: choose another mount"
  else
    quiet vault secrets enable -path="$1" -description="break-glass client CA" pki
    say "made the PKI mount $1"
  fi
  quiet vault secrets tune -max-lease-ttl="$ca_ttl" "$1"
  # What a role consists of is asked of the server: some fields are Vault's alone and some OpenBao's, and each warns of the other's.
  fields=$(vault path-help "$1/roles/breakglass") || die "the help on $1/roles/breakglass could not be read"
  unknown='/"allow_token_displayname"/d' # in every role that is given back, but it cannot be set
  for field in serial_number_source not_before not_before_bound not_after_bound; do
    printf '%s\n' "$fields" | grep -q "^ *$field (" || unknown="$unknown;/\"$field\"/d"
  done
  if [ "$2" != - ]; then
    issuer_id=$(vault read -field=issuer_id "$1/issuer/$2") || die "$1 has no issuer $2: vault list -detailed $1/issuers shows them"
  elif [ "$(vault list "$1/issuers" 2>/dev/null | grep -Ec '^[0-9a-f-]{36}$')" -gt 1 ] &&
    issuer_id=$(vault read -field=issuer_ref "$1/roles/breakglass" 2>/dev/null) && vault read "$1/issuer/$issuer_id" >/dev/null 2>&1 && [ "$issuer_id" != default ]; then
    say "$1 has several issuers: the role stays with the one it has, $issuer_id"
  elif [ "$(vault list "$1/issuers" 2>/dev/null | grep -Ec '^[0-9a-f-]{36}$')" -gt 1 ]; then
    die "$1 has several issuers: say with --issuer which one signs (vault list -detailed $1/issuers)" # in a rotation a guess could undo it
  elif issuer_id=$(vault read -field=issuer_id "$1/issuer/breakglass-g1" 2>/dev/null); then
    :
  elif vault list "$1/issuers" >/dev/null 2>&1; then
    die "$1 has a CA already, which is not from here: use a mount of its own, or say which with --issuer"
  else
    # The random serial number is part of the subject: a mount that is made again is another CA, and must not look like the old one.
    unique=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
    issuer_id=$(vault write -field=issuer_id "$1/root/generate/internal" common_name="breakglass-ca $1 g1" serial_number="$unique" issuer_name=breakglass-g1 \
      key_type=ec key_bits="$3" max_path_length=0 exclude_cn_from_sans=true ttl="$ca_ttl") || die "the CA on $1 could not be made"
    say "made the CA breakglass-g1 on $1"
  fi
  matches "$issuer_id" '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' || die "Vault gave the odd issuer id \"$issuer_id\""
  quiet vault write "$1/config/issuers" default="$issuer_id" default_follows_latest_issuer=false
  quiet vault patch "$1/issuer/$issuer_id" leaf_not_after_behavior=err usage=read-only,issuing-certificates,crl-signing,ocsp-signing
  quiet vault write "$1/config/acme" enabled=false
  # What has ended is removed three days later: time to compare it with the ledger, and no list that only grows.
  quiet vault write "$1/config/auto-tidy" enabled=true tidy_cert_store=true safety_buffer=72h interval_duration=12h
  [ -z "$rate" ] || quiet vault write "sys/quotas/rate-limit/breakglass-$(echo "$1" | tr / -)" path="$1/sign" rate="$rate"
  ca_file=$out/$(echo "$1" | tr / -)-ca.pem
  vault read -field=certificate "$1/issuer/$issuer_id" >"$ca_file.new" || die "the CA certificate of $1 could not be read"
  echo >>"$ca_file.new"
  mv "$ca_file.new" "$ca_file"
}

# setup_role MOUNT ROLE FILE GROUP MAX_TTL
setup_role() {
  sed -e "s/@ISSUER_ID@/$issuer_id/" -e "s/\"@MAX_TTL_SECONDS@\"/$5/" -e "s/@GROUP@/$4/" -e "$unknown" "$files/roles/$3" |
    vault write "$1/roles/$2" - >/dev/null || die "the role $1/roles/$2 could not be written"
}

refuse_to_drop
text=$(section 1 | sed "s/@POLICY@/$policy/")
facts='' clusters=''
while read -r mount issuer max_ttl key_bits groups; do
  [ -n "$mount" ] || continue
  setup_mount "$mount" "$issuer" "$key_bits" </dev/null
  setup_role "$mount" breakglass breakglass.json '' "$max_ttl"
  setup_role "$mount" breakglass-canary breakglass-canary.json '' "$max_ttl"
  text="$text
$(section 2 | sed "s|@MOUNT@|$mount|")
$(section 3 | sed -e "s|@MOUNT@|$mount|" -e "s/@ROLE@/breakglass/")"
  for group in $groups; do
    role=$(role_of "$group")
    setup_role "$mount" "$role" breakglass-group.json "$group" "$max_ttl"
    text="$text
$(section 3 | sed -e "s|@MOUNT@|$mount|" -e "s/@ROLE@/$role/")"
  done
  facts="$facts
mount     $mount
  issuer  $issuer_id
  max ttl ${max_ttl}s
  groups  ${groups:--}
  CA      $ca_file    (append it to the client-CA bundle of every kube-apiserver of the cluster)"
  clusters="$clusters
  - id:             # the cluster of this mount
    vault_mount: $mount
    vault_issuer_id: $issuer_id
    vault_max_ttl: ${max_ttl}s"
done <<EOF
$plan
EOF

printf '%s\n' "$text" | vault policy write "$policy" - >/dev/null || die "the policy $policy could not be written"

if [ "$with_approle" = yes ]; then
  if type=$(vault read -field=type "sys/auth/$approle" 2>/dev/null); then
    [ "$type" = approle ] || die "auth/$approle is of type $type: choose another --approle"
  else
    quiet vault auth enable -path="$approle" approle
    say "made the AppRole engine auth/$approle"
  fi
  quiet vault write "auth/$approle/role/$approle_name" token_type=service token_policies="$policy" token_no_default_policy=true \
    token_period="$period" token_ttl=0 token_max_ttl=0 token_explicit_max_ttl=0 token_num_uses=0 \
    bind_secret_id=true secret_id_num_uses=0 secret_id_ttl=0 token_bound_cidrs="$cidrs" secret_id_bound_cidrs="$cidrs"
  role_id=$(vault read -field=role_id "auth/$approle/role/$approle_name/role-id") || die "the role id could not be read"
  facts="$facts
login     approle
  engine  $approle
  role id $role_id"
  if [ -n "$secret_file" ]; then
    # A name that no other user could have prepared, in the same directory, for the umask does not help with a file that exists.
    new=$(mktemp "$(dirname "$secret_file")/.secret-id.XXXXXX") || die "no file could be made beside $secret_file"
    trap 'rm -f "$new"' EXIT
    vault write -force -field=secret_id "auth/$approle/role/$approle_name/secret-id" >"$new" || die "no secret id could be made"
    chmod 0600 "$new"
    mv "$new" "$secret_file"
    trap - EXIT
    facts="$facts
  secret  $secret_file"
  else
    facts="$facts
  secret  vault write -force -wrap-ttl=10m auth/$approle/role/$approle_name/secret-id
          then, on the daemon's host: vault unwrap -field=secret_id TOKEN into a file only the daemon can read"
  fi
else
  facts="$facts
login     token_file
  token   vault token create -orphan -no-default-policy -policy=$policy -period=$period"
fi

devices=$(vault audit list 2>/dev/null | grep -c '/' || true)
[ "$devices" -ge 2 ] || say "warning: Vault has $devices audit devices. Enable two: with one, Vault stops when it cannot write to it; with none, it cannot be told what the CA signed"

auth="
  auth:
    method: token_file
    token_file:     # where the token is kept"
if [ "$with_approle" = yes ]; then
  auth="
  auth:
    method: approle
    mount: $approle
    role_id: $role_id
    secret_id_file: ${secret_file:-    # where the secret id is kept}"
fi

echo "Set up:"
echo "policy    $policy$facts"
echo
echo "Put this into breakglassd's configuration:"
echo "vault:
  policy: $policy$auth
clusters:$clusters"
