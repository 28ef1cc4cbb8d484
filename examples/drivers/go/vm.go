package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// runVM is the process of a VM: it locks the disks, serves the console and reports on descriptor 3 how it started.
func runVM(vmID, directory string, disks []string) {
	report := os.NewFile(3, "report")
	fail := func(reason string) {
		report.WriteString(reason)
		os.Exit(1)
	}
	for _, disk := range disks {
		file, err := syscall.Open(disk, syscall.O_RDWR, 0)
		if err != nil {
			fail("missing")
		}
		if syscall.Flock(file, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			fail("in use")
		}
	}
	// The address of a socket has at most 107 characters.
	if os.Chdir(directory) != nil {
		fail("no directory")
	}
	os.Remove("console")
	listener, err := net.Listen("unix", "console")
	if err != nil {
		fail("no console")
	}
	pidFile := filepath.Join(directory, "pid")
	if os.WriteFile(pidFile+".new", []byte(strconv.Itoa(os.Getpid())), 0o600) != nil || os.Rename(pidFile+".new", pidFile) != nil {
		fail("no pid file")
	}
	report.WriteString("ready")
	report.Close()
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			io.Copy(connection, connection)
		}()
	}
}
