// Package rotation says how the certificate authorities around break-glass access are, and what the next step of a rotation
// is. It holds the pure part: what was seen (Observation), what it means (Judge), the phase of the rotation, the commands of the
// next step (MakePlan), the text for a terminal and the samples for metrics. Looking is done by adapters: package vaultca looks
// at Vault and signs canaries, package cluster looks at API servers. Checker puts the two together.
//
// # What is believed
//
// It reads nothing that an operator wrote down. The phase of a rotation is computed from one observation: which issuers are in Vault, which
// of them the roles sign under, and for every API server address whether it takes a certificate of each. There are two
// witnesses of that, and they differ in strength:
//
//   - A canary: a certificate without rights, signed for a minute by exactly the issuer in question, shown to exactly that
//     address. Taken (with the fingerprint that was issued) proves trust; 401 proves its absence, if the clocks agree.
//   - The handshake: a TLS server that takes client certificates lists the names of its CAs to every client. A name that is missing
//     proves that the CA itself is not trusted there. A name that is present proves little, because two CAs can share a name.
//
// Going forward takes proof of trust on every address, going back (retiring a CA) takes proof of its absence on every address.
// What could not be seen is neither: the verdict is then "cannot tell", which is a verdict of its own and never "all good".
//
// # What cannot be seen from outside
//
// kube-apiserver keeps the last good bundle when its file is deleted, emptied or broken. From outside that looks exactly like
// a file that still holds the CA; no endpoint, metric or ConfigMap tells the two apart. It matters twice: the old CA stays
// trusted although its removal was "done", and the API server will not start again without its file. So the operator can
// declare what the bundle files hold (Declared: a copy of the file as it is on the node, or as configuration management puts it
// there). With a declaration, a CA that is trusted but not declared is told apart: the file is missing or holds no certificate
// (deleted-but-cached), or holds others and was not loaded. Without one, the verdict names both possibilities.
//
// Also not visible: whether a private key exists outside Vault (only signs of it are: the cluster's own CA, a name that did not
// come from setup.sh), what aggregated API servers keep in memory after the ConfigMap was cleaned, and API servers
// that the configuration does not name.
//
// # Phases
//
// One issuer, or closed ones beside it: not-started, or closed after a rotation. A newer issuer that may sign: prepared,
// trusted-on-some, trusted-on-all. The roles moved to the newer one: switched-too-early if an address does not take it; active
// while some role or the default issuer has not moved yet; draining while certificates of the old one can be alive; drained.
// Then the old one leaves the bundles: old-removed-on-some, or deleted-but-cached; trusted nowhere but still in the ConfigMap:
// residue; gone: retired; no longer able to sign in Vault: closed. An issuer that signs for people and has ended is expired-ca
// whatever else is true. Rolling back is moving the roles back, and the phases follow. While an issuer, a role or the default issuer
// could not be seen, the phase is not known: it would be that of a Vault without them.
//
// # The cluster's own CA
//
// A CA that was imported into Vault and is also the cluster's own is never taken out of a bundle: kubelets and the control plane
// sign in by it, and without it the cluster is lost. A rotation away from it goes from drained to closed, by removing its right to
// sign in Vault. Before any CA leaves a bundle it must be seen that it is not this one.
package rotation
