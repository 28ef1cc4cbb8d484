package main

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// faultSpec says what goes wrong; the control port's POST /faults replaces it.
// Maps are keyed by the disk's targetId (disk-0.vmdk).
type faultSpec struct {
	CloneMs      int              `json:"clone_ms"`
	CloneError   string           `json:"clone_error"`
	SoapDown     bool             `json:"soap_down"` // every API call gets HTTP 503
	DestroyError string           `json:"destroy_error"`
	LeaseInitMs  int              `json:"lease_init_ms"`
	LeaseError   string           `json:"lease_error"`
	LeaseTimeout int32            `json:"lease_timeout"` // seconds; 300 by default
	URLHost      string           `json:"url_host"`      // "*" as an ESXi host gives
	Chunked      bool             `json:"chunked"`       // no Content-Length, as a real host
	NFCSession   bool             `json:"nfc_session"`   // disks need a live session cookie
	Ranges       bool             `json:"ranges"`        // disks can be resumed; a real host starts over
	Corrupt      map[string]int   `json:"corrupt"`       // how many times a disk comes with one byte changed
	Status       map[string]int   `json:"status"`
	CutAfter     map[string]int64 `json:"cut_after"` // bytes, then a TCP reset
	CutTimes     map[string]int   `json:"cut_times"` // how many times; 0: each time
	BytesPerSec  map[string]int64 `json:"bytes_per_sec"`

	FolderBytesPerSec int64  `json:"folder_bytes_per_sec"` // of /folder
	FolderStatus      int    `json:"folder_status"`        // every answer of /folder
	FolderCuts        int    `json:"folder_cuts"`          // how many answers of /folder break off half way
	SnapshotError     string `json:"snapshot_error"`
	SnapshotMs        int    `json:"snapshot_ms"`
	RemoveError       string `json:"remove_error"`  // snapshots cannot be removed
	ShutdownHeld      bool   `json:"shutdown_held"` // a guest that was asked to shut down does not end yet
	NoAllocated       bool   `json:"no_allocated"`  // the datastore does not tell what is allocated, as NFS does not
}

type faultBox struct {
	sync.Mutex
	faultSpec
}

func (b *faultBox) get() faultSpec {
	b.Lock()
	defer b.Unlock()
	return b.faultSpec
}

var (
	faults faultBox
	lease0 struct{ host, thumbprint string }
	leases struct {
		sync.Mutex
		all []*lease
	}
)

type nfcFile struct {
	path     string
	Capacity int64  `json:"capacity"`
	Gets     int    `json:"gets"`
	Sent     int64  `json:"sent"`
	SHA1     string `json:"sha1"` // set once sent whole
}

// lease is an export lease. mo.HttpNfcLease comes first for the property collector.
type lease struct {
	mo.HttpNfcLease

	mu       sync.Mutex
	token    string
	vm       types.ManagedObjectReference
	task     types.ManagedObjectReference // what a TaskInProgress fault names; it must be a Task
	files    map[string]*nfcFile
	progress []int32
	timer    *time.Timer
}

func (l *lease) set(state types.HttpNfcLeaseState, more ...types.PropertyChange) {
	simulator.Map.Update(l, append(more, types.PropertyChange{Name: "state", Val: state}))
}

func (l *lease) fail(fault types.BaseMethodFault, msg string) {
	simulator.Map.WithLock(l, func() {
		if l.State == types.HttpNfcLeaseStateInitializing || l.State == types.HttpNfcLeaseStateReady {
			l.set(types.HttpNfcLeaseStateError, types.PropertyChange{Name: "error",
				Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: msg}})
		}
	})
}

// gets is how many times a disk was asked for.
func (l *lease) gets(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.files[name].Gets
}

func max(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}

func (l *lease) state() (s types.HttpNfcLeaseState) {
	simulator.Map.WithLock(l, func() { s = l.State })
	return s
}

// held is the fault of a VM that an open lease holds, or nil.
func (x *vmExt) held() *soap.Fault {
	leases.Lock()
	defer leases.Unlock()
	for _, l := range leases.all {
		if s := l.state(); l.vm.Value == x.Self.Value && (s == types.HttpNfcLeaseStateInitializing || s == types.HttpNfcLeaseStateReady) {
			return simulator.Fault("Another task is already in progress.", &types.TaskInProgress{Task: l.task})
		}
	}
	return nil
}

func (x *vmExt) ExportVm(ctx *simulator.Context, _ *types.ExportVm) soap.HasFault {
	vm := x.vm()
	body := new(methods.ExportVmBody)
	if s := vm.Runtime.PowerState; s != types.VirtualMachinePowerStatePoweredOff {
		body.Fault_ = simulator.Fault("The attempted operation cannot be performed in the current state ("+string(s)+").",
			&types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: s})
		return body
	}
	if body.Fault_ = x.held(); body.Fault_ != nil { // the simulator calls us with x locked
		return body
	}
	f := faults.get()
	l := &lease{token: uuid.New().String(), vm: vm.Self, files: map[string]*nfcFile{}}
	l.Self.Type = "HttpNfcLease" // else the Go type's name
	l.State, l.Mode = types.HttpNfcLeaseStateInitializing, "pushOrGet"
	info := types.HttpNfcLeaseInfo{Entity: vm.Self, LeaseTimeout: f.LeaseTimeout}
	if info.LeaseTimeout == 0 {
		info.LeaseTimeout = 300
	}
	host := f.URLHost
	if host == "" {
		host = lease0.host
	}
	for i, d := range disksOf(vm) {
		id := fmt.Sprintf("disk-%d.vmdk", i)
		l.files[id] = &nfcFile{path: diskFile(d), Capacity: d.CapacityInKB << 10}
		info.TotalDiskCapacityInKB += d.CapacityInKB
		url := types.HttpNfcLeaseDeviceUrl{Key: deviceID(vm, d), Url: "https://" + host + "/nfc/" + l.token + "/" + id,
			SslThumbprint: lease0.thumbprint, Disk: types.NewBool(true), TargetId: id}
		if st, err := os.Stat(diskFile(d)); err == nil {
			url.FileSize = st.Size()
		}
		info.DeviceUrl = append(info.DeviceUrl, url)
	}
	l.task = simulator.CreateTask(vm, "exportVm", nil).Self
	ctx.Session.Put(l) // leases belong to their session
	info.Lease = l.Self
	leases.Lock()
	leases.all = append(leases.all, l)
	leases.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock() // the timer may fire before it is assigned
	timeout := time.Duration(info.LeaseTimeout) * time.Second
	l.timer = time.AfterFunc(time.Duration(f.LeaseInitMs)*time.Millisecond, func() {
		if f.LeaseError != "" {
			l.fail(&types.InvalidState{}, f.LeaseError)
			return
		}
		simulator.Map.WithLock(l, func() {
			if l.State == types.HttpNfcLeaseStateInitializing {
				l.set(types.HttpNfcLeaseStateReady, types.PropertyChange{Name: "info", Val: info})
			}
		})
		l.mu.Lock()
		l.timer = time.AfterFunc(timeout, func() { l.fail(&types.Timedout{}, "The lease has timed out.") })
		l.mu.Unlock()
	})
	body.Res = &types.ExportVmResponse{Returnval: l.Self}
	return body
}

// deviceID names a disk as leases and OVF files do: /vm-1/ParaVirtualSCSIController0:1.
func deviceID(vm *simulator.VirtualMachine, d *types.VirtualDisk) string {
	devs := object.VirtualDeviceList(vm.Config.Hardware.Device)
	c := devs.FindByKey(d.ControllerKey)
	bus := c.(types.BaseVirtualController).GetVirtualController().BusNumber
	return fmt.Sprintf("/%s/%s%d:%d", vm.Self.Value, reflect.TypeOf(c).Elem().Name(), bus, *d.UnitNumber)
}

// The lease's own methods run with the lease locked by the simulator.

func (l *lease) HttpNfcLeaseProgress(_ *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	if l.State != types.HttpNfcLeaseStateReady {
		return &methods.HttpNfcLeaseProgressBody{Fault_: simulator.Fault("", &types.InvalidState{})}
	}
	l.mu.Lock()
	l.progress = append(l.progress, req.Percent)
	l.timer.Reset(time.Duration(l.Info.LeaseTimeout) * time.Second)
	l.mu.Unlock()
	simulator.Map.Update(l, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	return &methods.HttpNfcLeaseProgressBody{Res: new(types.HttpNfcLeaseProgressResponse)}
}

func (l *lease) HttpNfcLeaseComplete(_ *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	if l.State != types.HttpNfcLeaseStateReady {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: simulator.Fault("", &types.InvalidState{})}
	}
	l.timer.Stop()
	l.set(types.HttpNfcLeaseStateDone)
	return &methods.HttpNfcLeaseCompleteBody{Res: new(types.HttpNfcLeaseCompleteResponse)}
}

func (l *lease) HttpNfcLeaseAbort(_ *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	l.timer.Stop()
	fault := req.Fault
	if fault == nil {
		fault = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "aborted"}
	}
	l.set(types.HttpNfcLeaseStateError, types.PropertyChange{Name: "error", Val: *fault})
	return &methods.HttpNfcLeaseAbortBody{Res: new(types.HttpNfcLeaseAbortResponse)}
}

func (l *lease) HttpNfcLeaseGetManifest(_ *simulator.Context, _ *types.HttpNfcLeaseGetManifest) soap.HasFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	res := new(types.HttpNfcLeaseGetManifestResponse)
	for _, u := range l.Info.DeviceUrl {
		if f := l.files[u.TargetId]; f.SHA1 != "" {
			res.Returnval = append(res.Returnval, types.HttpNfcLeaseManifestEntry{
				Key: u.Key, Sha1: f.SHA1, Size: f.Sent, Disk: true, Capacity: f.Capacity})
		}
	}
	return &methods.HttpNfcLeaseGetManifestBody{Res: res}
}

// serveNFC answers GET /nfc/<token>/<targetId>.
func serveNFC(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(r.URL.Path, "/")
	var l *lease
	leases.Lock()
	for _, x := range leases.all {
		if len(part) == 4 && x.token == part[2] {
			l = x
		}
	}
	leases.Unlock()
	if l == nil || l.files[part[3]] == nil || l.state() != types.HttpNfcLeaseStateReady {
		http.NotFound(w, r)
		return
	}
	name, f := part[3], faults.get()
	file := l.files[name]
	if code := f.Status[name]; code != 0 {
		http.Error(w, "", code)
		return
	}
	src, err := os.Open(file.path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer src.Close()
	l.mu.Lock()
	file.Gets, file.Sent = file.Gets+1, 0
	l.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	sum, sent, buf, began := sha1.New(), int64(0), make([]byte, 64<<10), time.Now()
	st, err := src.Stat()
	must(err)
	var from int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && f.Ranges && from <= st.Size() {
		_, err := io.CopyN(sum, src, from) // the digest is of the whole disk
		must(err)
		sent = from
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, st.Size()-1, st.Size()))
	}
	if !f.Chunked {
		w.Header().Set("Content-Length", fmt.Sprint(st.Size()-sent))
	}
	if sent > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	cut, limited := f.CutAfter[name]
	if times := f.CutTimes[name]; times > 0 && l.gets(name) > times {
		limited = false
	}
	corrupt := l.gets(name) <= f.Corrupt[name]
	for {
		n, rerr := src.Read(buf)
		if limited && sent+int64(n) > cut {
			n = int(max(cut-sent, 0))
		}
		sum.Write(buf[:n])
		if corrupt && n > 0 {
			buf[n-1] ^= 0xff
			corrupt = false
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
		sent += int64(n)
		l.mu.Lock()
		file.Sent = sent
		l.mu.Unlock()
		if limited && sent >= cut || l.state() != types.HttpNfcLeaseStateReady {
			w.(http.Flusher).Flush()
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				if t, ok := c.(interface{ NetConn() net.Conn }); ok {
					_ = t.NetConn().(*net.TCPConn).SetLinger(0) // a reset, without TLS's goodbye
					c = t.NetConn()
				}
				_ = c.Close()
			}
			return
		}
		if bps := f.BytesPerSec[name]; bps > 0 {
			w.(http.Flusher).Flush()
			time.Sleep(time.Until(began.Add(time.Duration(float64(sent) / float64(bps) * float64(time.Second)))))
		}
		if rerr == io.EOF {
			break
		}
	}
	l.mu.Lock()
	file.SHA1 = hex.EncodeToString(sum.Sum(nil))
	l.mu.Unlock()
}

// control is the tests' side door: POST /faults, POST /end-sessions, GET /leases,
// POST /write (a guest writes to its disk), POST /reset-tracking (all change ids become invalid).
func control(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /faults":
		var f faultSpec
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		faults.Lock()
		faults.faultSpec = f
		faults.Unlock()
	case "POST /end-sessions":
		sm := simulator.Map.SessionManager()
		s := &simulator.Session{Registry: simulator.NewRegistry()}
		for _, u := range s.Get(sm.Self).(*simulator.SessionManager).SessionList {
			sm.TerminateSession(&simulator.Context{Map: simulator.Map, Session: s}, &types.TerminateSession{SessionId: []string{u.Key}})
		}
		leases.Lock()
		defer leases.Unlock()
		for _, l := range leases.all { // they belong to their sessions
			l.fail(&types.InvalidState{}, "The session has ended.")
		}
	case "GET /leases":
		leases.Lock()
		defer leases.Unlock()
		out := []map[string]interface{}{}
		for _, l := range leases.all {
			state := l.state()
			l.mu.Lock()
			out = append(out, map[string]interface{}{"vm": l.vm.Value, "state": state, "progress": l.progress, "files": l.files})
			l.mu.Unlock()
		}
		_ = json.NewEncoder(w).Encode(out)
	case "POST /write":
		guestWrite(w, r)
	case "POST /reset-tracking":
		resetTracking()
	default:
		http.NotFound(w, r)
	}
}
