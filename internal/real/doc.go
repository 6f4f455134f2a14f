// Package real builds and starts the programs that breakglass works with, the real ones: Vault, etcd, kube-apiserver,
// kubectl and, where a test asks for it, kube-controller-manager. All it needs is Go: no container engine, and no download
// except modules through the Go module proxy.
//
// A fake Vault does what its author believes that Vault does. The claims this project makes (that a hostile CSR comes
// back clean, that a certificate stops working when its CA leaves the bundle) are claims about the real programs, so they
// are tested there.
//
// # From a test
//
//	v := realtest.NewVault(t, real.VaultOptions{})                       // unsealed, TLS, in memory
//	a := realtest.NewCluster(t, real.APIServerOptions{ClientCAs: caPEM}) // etcd and one API server
//	names := realtest.MustKubectl(t, a.AdminKubeconfig(), "get", "namespaces")
//
// The first test on a machine builds what it needs, which takes minutes; afterwards a Vault or an etcd starts in less than
// a second and an API server in two to four. A package with many tests starts one of each in TestMain, with [Build] and the
// Start methods of [Binaries], which know nothing of tests and also serve `breakglassd dev --real`.
//
// # Where the programs come from
//
// Each is compiled once for each version, Go release and set of flags into the user's cache directory (breakglass-real, or
// the directory named by BREAKGLASS_TEST_CACHE), one at a time on the whole machine. A variable such as
// BREAKGLASS_TEST_VAULT names a program to use instead; one of another version is refused. What cannot be built fails the
// test that asked for it: nothing is skipped, because a skipped proof looks like a proof. Before a first run of all tests,
//
//	go test ./internal/real -run TestEveryComponentBuilds -timeout 60m
//
// builds everything without the default ten-minute limit of go test.
//
// BREAKGLASS_REAL=oldest builds and uses the oldest supported versions in place of the newest; modules/README.md names both.
//
// # What is left behind
//
// Nothing but files in the directory given. Every program runs in its own process group, listens on 127.0.0.1 only, and is
// killed by the kernel when the process that started it dies, however it dies (on Linux; elsewhere a test that is killed
// leaves its programs running).
//
// None of these programs is linked into what ships; see modules/README.md.
package real
