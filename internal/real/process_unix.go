//go:build unix && !linux

package real

import "syscall"

func tied() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
