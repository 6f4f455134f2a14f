# What breakglassd may do in Vault, and all it may do. Its token carries this policy and no other, not even "default":
# Vault merges the policies of a token, and a second one can only add.
#
# deploy/vault/setup.sh fills the placeholders and loads the result. The daemon reads its policy back before every signature
# and refuses to sign under one that is not, block by block, what is written here; so does `breakglassd doctor`.
#
#   @POLICY@  the name of this policy                                                       breakglassd
#   @MOUNT@   the PKI mount of one cluster; the second part is repeated for each mount      pki-prod-eu-1
#   @ROLE@    a PKI role of that mount; the third part is repeated for each role            breakglass, breakglass-NAME

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# The token is given back when the daemon stops.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# Doctor proves with this that the token can do nothing else.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

path "sys/policies/acl/@POLICY@" {
  capabilities = ["read"]
}

# --- for each mount ---

# Finding a certificate whose answer was lost, and certificates that nobody ordered. (Vault serves cert/* to anybody.)
path "@MOUNT@/certs" {
  capabilities = ["list"]
}

path "@MOUNT@/roles" {
  capabilities = ["list"]
}

path "@MOUNT@/issuers" {
  capabilities = ["list"]
}

path "@MOUNT@/issuer/+" {
  capabilities = ["read"]
}

path "@MOUNT@/config/issuers" {
  capabilities = ["read"]
}

path "@MOUNT@/config/acme" {
  capabilities = ["read"]
}

path "@MOUNT@/config/auto-tidy" {
  capabilities = ["read"]
}

# The canary proves the whole path without giving anybody anything: its names have no rights, and its role signs for a minute.
# It chooses the issuer, because the next one of a rotation must be proven before it signs for people; only this role may be
# used that way.
path "@MOUNT@/issuer/+/sign/breakglass-canary" {
  capabilities        = ["update"]
  required_parameters = ["csr", "common_name", "ttl"]
  allowed_parameters = {
    "csr"                  = []
    "common_name"          = ["breakglass-canary:*"]
    "ttl"                  = []
    "exclude_cn_from_sans" = [true]
    "format"               = ["pem"]
  }
}

path "@MOUNT@/roles/breakglass-canary" {
  capabilities = ["read"]
}

# --- for each role ---

# A parameter that is not named is refused. The one that matters most is not_after: up to Vault 1.19.18, 1.20.12, 1.21.7 and
# 2.0.2 it overrides the role's max_ttl. Any ttl is let through, because the role's max_ttl bounds it.
path "@MOUNT@/sign/@ROLE@" {
  capabilities        = ["update"]
  required_parameters = ["csr", "common_name", "ttl"]
  allowed_parameters = {
    "csr"                  = []
    "common_name"          = ["breakglass:*"]
    "ttl"                  = []
    "exclude_cn_from_sans" = [true]
    "format"               = ["pem"]
  }
}

path "@MOUNT@/roles/@ROLE@" {
  capabilities = ["read"]
}
