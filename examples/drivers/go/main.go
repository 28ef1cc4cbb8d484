// A driver program for Ostler's agent in Go, with the standard library only. A VM is a process of this program
// ("vm"), which locks its disks and echoes its console: replace it by your hypervisor.
//
//	go build -o ostler-driver . && ostler-agent driver check executable --option command=$PWD/ostler-driver
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Request is one line from the agent.
type Request struct {
	ID   int             `json:"id"`
	Call string          `json:"call"`
	Args json.RawMessage `json:"args"`
}

// A Fault is an error with a reason code.
type Fault struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (f *Fault) Error() string { return f.Message }

// A VM is a definition, in the form in which `define` and `start` receive it; it is stored as it is.
type VM struct {
	VMID        string `json:"vm_id"`
	Name        string `json:"name"`
	CPUs        int    `json:"cpus"`
	MemoryBytes int64  `json:"memory_bytes"`
	Disks       []struct {
		VolumeID string `json:"volume_id"`
		Path     string `json:"path"`
	} `json:"disks"`
}

var stateDir string

func main() {
	if len(os.Args) > 2 && os.Args[1] == "vm" {
		runVM(os.Args[2], os.Args[3], os.Args[4:])
		return
	}
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return // the agent has closed our input: we end, our VMs keep running
		}
		var request Request
		if err := json.Unmarshal(line, &request); err != nil {
			fmt.Fprintln(os.Stderr, "not a request:", err)
			os.Exit(1)
		}
		result, err := handle(request)
		if err != nil {
			var fault *Fault
			if !errors.As(err, &fault) {
				fault = &Fault{"INTERNAL", err.Error()}
			}
			output.Encode(map[string]any{"id": request.ID, "error": fault})
			continue
		}
		output.Encode(map[string]any{"id": request.ID, "result": result})
	}
}

func handle(request Request) (any, error) {
	var vm VM
	if request.Call != "hello" {
		if err := json.Unmarshal(request.Args, &vm); err != nil {
			return nil, err
		}
	}
	switch request.Call {
	case "hello":
		return hello(request.Args)
	case "probe":
		return map[string]string{"version": "1"}, nil
	case "list":
		return list()
	case "samples":
		return samples()
	case "define":
		return nil, write(vm.VMID, request.Args)
	case "start":
		return nil, start(vm, request.Args)
	case "shut_down":
		return nil, nil // our guests ignore it
	case "power_off":
		return nil, powerOff(vm.VMID)
	case "delete":
		return nil, os.RemoveAll(directory(vm.VMID))
	case "console":
		return map[string]string{"socket": filepath.Join(directory(vm.VMID), "console")}, nil
	}
	return nil, &Fault{"FUNCTION_NOT_SUPPORTED", "there is no call " + request.Call}
}

func hello(args json.RawMessage) (any, error) {
	var options struct {
		StateDir string         `json:"state_dir"`
		Options  map[string]any `json:"options"`
	}
	if err := json.Unmarshal(args, &options); err != nil {
		return nil, err
	}
	for name := range options.Options {
		return nil, &Fault{"INVALID_OPTION", "unknown option " + name}
	}
	stateDir = options.StateDir
	return map[string]any{
		"protocol_version": 1,
		"type":             "custom",
		"display_name":     "Go example",
		"template_formats": []string{"raw"},
		"functions":        []string{"direct-download"},
		"pool_types":       []string{"local"},
	}, nil
}

func list() (any, error) {
	vms := []map[string]any{}
	files, err := filepath.Glob(filepath.Join(stateDir, "*", "definition.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var vm VM
		data, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(data, &vm) != nil {
			continue // deleted meanwhile
		}
		state, volumes := "stopped", []string{}
		if pid(vm.VMID) > 0 {
			state = "running"
		}
		for _, disk := range vm.Disks {
			volumes = append(volumes, disk.VolumeID)
		}
		vms = append(vms, map[string]any{
			"vm_id": vm.VMID, "name": vm.Name, "state": state, "cpus": vm.CPUs,
			"memory_bytes": vm.MemoryBytes, "volume_ids": volumes,
		})
	}
	return vms, nil
}

func samples() (any, error) {
	found := []map[string]any{}
	files, _ := filepath.Glob(filepath.Join(stateDir, "*", "pid"))
	for _, file := range files {
		vmID := filepath.Base(filepath.Dir(file))
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid(vmID)))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data)[strings.LastIndex(string(data), ")")+1:])
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		pages, _ := strconv.ParseInt(fields[21], 10, 64)
		found = append(found, map[string]any{
			"vm_id": vmID, "cpu_time_ns": (user + system) * 10_000_000, "rss_bytes": pages * int64(os.Getpagesize()),
		})
	}
	return found, nil
}

// start launches the VM in a session of its own, because the agent ends the process group of this program.
func start(vm VM, definition []byte) error {
	if pid(vm.VMID) > 0 {
		return nil
	}
	if err := write(vm.VMID, definition); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{program, "vm", vm.VMID, directory(vm.VMID)}
	for _, disk := range vm.Disks {
		argv = append(argv, disk.Path)
	}
	ready, inherited, err := os.Pipe()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	process, err := os.StartProcess(program, argv, &os.ProcAttr{
		Files: []*os.File{null, null, null, inherited},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	inherited.Close()
	if err != nil {
		return err
	}
	defer ready.Close()
	answer := make([]byte, 64)
	count, _ := ready.Read(answer)
	if string(answer[:count]) == "ready" {
		go process.Wait() // reaps it if it ends before this program
		return nil
	}
	process.Wait()
	switch string(answer[:count]) {
	case "in use":
		return &Fault{"DISK_IN_USE", "another VM uses a disk of VM " + vm.VMID}
	case "missing":
		return &Fault{"VOLUME_MISSING", "a disk of VM " + vm.VMID + " does not exist"}
	}
	return errors.New("the VM did not start")
}

func powerOff(vmID string) error {
	found := pid(vmID)
	if found == 0 {
		return nil
	}
	syscall.Kill(found, syscall.SIGKILL)
	for deadline := time.Now().Add(5 * time.Second); pid(vmID) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("the VM does not end")
		}
	}
	return nil
}

// write stores a definition atomically.
func write(vmID string, definition []byte) error {
	if err := os.MkdirAll(directory(vmID), 0o700); err != nil {
		return err
	}
	file := filepath.Join(directory(vmID), "definition.json")
	if err := os.WriteFile(file+".new", definition, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func directory(vmID string) string { return filepath.Join(stateDir, vmID) }

// pid returns the VM's process, 0 if it does not run. The file may be stale, and its number another process's.
func pid(vmID string) int {
	data, err := os.ReadFile(filepath.Join(directory(vmID), "pid"))
	if err != nil {
		return 0
	}
	number, _ := strconv.Atoi(string(data))
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", number))
	if err != nil || !strings.Contains(string(command), vmID) {
		return 0
	}
	return number
}
