//go:build !unix

package real

import "syscall"

func tied() *syscall.SysProcAttr { return nil }
