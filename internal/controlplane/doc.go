// Package controlplane reads how the programs of a control plane were started: their command lines, in whichever form they come, and
// the API server's authentication configuration.
//
// The absence of a door is told by a flag that is missing. A reader that overlooked a word would prove an absence that is not
// there, so what was not understood is said: see [Component.Blind] and Authentication.Unknown.
package controlplane
