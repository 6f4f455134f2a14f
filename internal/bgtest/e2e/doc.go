// Package e2e holds the end-to-end tests: the real daemon binary and the real command line, a real Vault set up by the shipped
// script, a real kube-apiserver with the shipped manifests, the real kubectl, and the Slack workspace simulator over HTTP.
package e2e
