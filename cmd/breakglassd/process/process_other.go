//go:build !linux

package process

// HideMemory does nothing where there is no prctl.
func HideMemory() error { return nil }

// MayWrite cannot tell where there is no access(2): serve says it.
func MayWrite(string) error { return nil }
