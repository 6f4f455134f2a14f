package process

import (
	"os"
	"syscall"
)

// prSetDumpable is PR_SET_DUMPABLE of prctl(2).
const prSetDumpable = 4

// wOK and xOK are W_OK and X_OK of access(2).
const wOK, xOK = 2, 1

// HideMemory keeps other processes of the same user from reading this one's memory, and the kernel from writing it to a core
// file: there are tokens and the ledger's key in it.
func HideMemory() error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	return nil
}

// MayWrite says why this user cannot make files in a directory, or nil.
func MayWrite(dir string) error { return syscall.Access(dir, wOK|xOK) }
