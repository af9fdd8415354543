// Package parent ends this process when the driver that started it is gone, however that came about: a test that is
// killed must not leave an API server behind. The kernel sends the signal, so it also reaches a stopped process.
package parent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Variable that the driver sets; nobody else wants to be killed.
const variable = "ENSIGN_END_WITH_PARENT"

// Follow asks the kernel for SIGKILL when the parent ends. Call it first in main, on the main thread.
func Follow() {
	parent := os.Getenv(variable)
	if parent == "" {
		return
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "cannot follow the parent: %v\n", err)
		os.Exit(1)
	}
	// It may have ended before the kernel knew of our wish.
	if parent != fmt.Sprint(os.Getppid()) {
		os.Exit(1)
	}
}
