package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Changed block tracking and what it needs: snapshots behind which a disk's
// flat file stays as it is while the guest goes on writing, change ids,
// QueryChangedDiskAreas, and a guest that writes when the tests tell it to.

const blockBytes = 64 << 10

type guestWriteSpec struct {
	VM     string `json:"vm"`
	Disk   int    `json:"disk"`
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
}

// track is what the simulator knows of one disk's changes. Its number grows
// with every snapshot; a block's number tells since when it differs.
type track struct {
	uuid    string
	number  int64
	changed map[int64]int64
	held    []guestWriteSpec // written since the snapshot
}

type vmTracks struct {
	active bool // the VM has been stunned since tracking was enabled
	disks  map[int32]*track
	areas  map[string]map[int32]int64 // numbers of the disks at each snapshot
}

var tracking struct {
	sync.Mutex
	vms map[string]*vmTracks
}

func tracksOf(vm *simulator.VirtualMachine) *vmTracks {
	if tracking.vms == nil {
		tracking.vms = map[string]*vmTracks{}
	}
	t := tracking.vms[vm.Self.Value]
	if t == nil {
		t = &vmTracks{disks: map[int32]*track{}, areas: map[string]map[int32]int64{}}
		tracking.vms[vm.Self.Value] = t
	}
	for _, d := range disksOf(vm) {
		if t.disks[d.Key] == nil {
			t.disks[d.Key] = &track{uuid: uuid.New().String(), number: 1, changed: map[int64]int64{}}
		}
	}
	return t
}

func (t *track) changeID(number int64) string { return t.uuid + "/" + strconv.FormatInt(number, 10) }

func flatFile(d *types.VirtualDisk) string {
	return strings.TrimSuffix(diskFile(d), ".vmdk") + "-flat.vmdk"
}

func enabled(vm *simulator.VirtualMachine) bool {
	return vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
}

// ReconfigVMTask lets the simulator do its part, which leaves tracking alone.
func (x *vmExt) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) (res soap.HasFault) {
	vm := x.vm()
	req.This, ctx.Caller = vm.Self, &vm.Self
	simulator.Map.WithLock(vm, func() {
		if wanted := req.Spec.ChangeTrackingEnabled; wanted != nil {
			on := *wanted
			vm.Config.ChangeTrackingEnabled = &on
			tracking.Lock()
			tracksOf(vm).active = false
			tracking.Unlock()
		}
		res = vm.ReconfigVMTask(ctx, req)
	})
	return res
}

// CreateSnapshotTask freezes the disks. A snapshot made when tracking was not
// active yet has no change ids; making it activates tracking.
func (x *vmExt) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) (res soap.HasFault) {
	f := faults.get()
	if f.SnapshotError != "" {
		return &methods.CreateSnapshot_TaskBody{Fault_: simulator.Fault(f.SnapshotError, &types.SnapshotFault{})}
	}
	time.Sleep(time.Duration(f.SnapshotMs) * time.Millisecond)
	vm := x.vm()
	req.This = vm.Self
	simulator.Map.WithLock(vm, func() {
		res = vm.CreateSnapshotTask(req)
		ref := vm.Snapshot.CurrentSnapshot
		if ref == nil {
			return
		}
		tracking.Lock()
		defer tracking.Unlock()
		t := tracksOf(vm)
		snapshot := simulator.Map.Get(*ref).(*simulator.VirtualMachineSnapshot)
		snapshot.Config.Hardware.Device = copied(vm.Config.Hardware.Device)
		t.areas[ref.Value] = map[int32]int64{}
		for _, dev := range snapshot.Config.Hardware.Device {
			d, ok := dev.(*types.VirtualDisk)
			if !ok {
				continue
			}
			disk := t.disks[d.Key]
			t.areas[ref.Value][d.Key] = disk.number
			if b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && t.active && enabled(vm) {
				b.ChangeId = disk.changeID(disk.number)
			}
			disk.number++
		}
		t.active = enabled(vm)
	})
	return res
}

// snapshotExt is to snapshots what vmExt is to VMs.
type snapshotExt struct{ Self types.ManagedObjectReference }

const snapshotExtType = "TestVirtualMachineSnapshot"

func (x *snapshotExt) Reference() types.ManagedObjectReference { return x.Self }

func (x *snapshotExt) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	if f := faults.get(); f.RemoveError != "" {
		return &methods.RemoveSnapshot_TaskBody{Fault_: simulator.Fault(f.RemoveError, &types.SnapshotFault{})}
	}
	ref := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: x.Self.Value}
	snapshot := simulator.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
	vm := simulator.Map.Get(snapshot.Vm).(*simulator.VirtualMachine)
	req.This = ref
	res := snapshot.RemoveSnapshotTask(ctx, req)
	task := simulator.Map.Get(res.(*methods.RemoveSnapshot_TaskBody).Res.Returnval).(*simulator.Task)
	task.Info.Entity = &vm.Self // 0.24.2 names the snapshot, which is no entity
	if vm.Snapshot == nil {
		tracking.Lock()
		defer tracking.Unlock()
		t := tracksOf(vm)
		for _, d := range disksOf(vm) { // consolidation
			for _, w := range t.disks[d.Key].held {
				must(applyWrite(d, w))
			}
			t.disks[d.Key].held = nil
		}
	}
	return res
}

func (x *vmExt) QueryChangedDiskAreas(ctx *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	vm := x.vm()
	body := new(methods.QueryChangedDiskAreasBody)
	invalid := func(property string) soap.HasFault {
		body.Fault_ = simulator.Fault("A specified parameter was not correct: "+property,
			&types.InvalidArgument{InvalidProperty: property})
		return body
	}
	tracking.Lock()
	defer tracking.Unlock()
	t := tracksOf(vm)
	disk := t.disks[req.DeviceKey]
	if disk == nil || req.Snapshot == nil || t.areas[req.Snapshot.Value] == nil {
		return invalid("deviceKey")
	}
	var device *types.VirtualDisk
	for _, d := range disksOf(vm) {
		if d.Key == req.DeviceKey {
			device = d
		}
	}
	size := device.CapacityInKB << 10
	if req.StartOffset >= size {
		return invalid("startOffset")
	}
	// As a server does with a long list: it answers for a part of the disk.
	info := types.DiskChangeInfo{StartOffset: req.StartOffset, Length: size - req.StartOffset}
	const most = 64 << 20
	if info.Length > most {
		info.Length = most
	}
	changed := func(block int64) bool { return true }
	if req.ChangeId == "*" {
		if faults.get().NoAllocated {
			body.Fault_ = simulator.Fault("the datastore cannot tell", &types.FileFault{})
			return body
		}
		flat, err := os.Open(flatFile(device))
		must(err)
		defer flat.Close()
		changed = func(block int64) bool {
			buf := make([]byte, blockBytes)
			n, _ := flat.ReadAt(buf, block*blockBytes)
			for _, b := range buf[:n] {
				if b != 0 {
					return true
				}
			}
			return false
		}
	} else {
		number, err := strconv.ParseInt(strings.TrimPrefix(req.ChangeId, disk.uuid+"/"), 10, 64)
		if err != nil {
			return invalid("changeId")
		}
		// Blocks written since the snapshot are told, too: they come again with the next one.
		changed = func(block int64) bool { return disk.changed[block] > number }
	}
	for offset := req.StartOffset / blockBytes * blockBytes; offset < info.StartOffset+info.Length; offset += blockBytes {
		if !changed(offset / blockBytes) {
			continue
		}
		length := int64(blockBytes)
		if offset+length > size {
			length = size - offset
		}
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: offset, Length: length})
	}
	body.Res = &types.QueryChangedDiskAreasResponse{Returnval: info}
	return body
}

func applyWrite(d *types.VirtualDisk, w guestWriteSpec) error {
	f, err := os.OpenFile(flatFile(d), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(w.Data, w.Offset)
	return err
}

// guestWrite has the guest of a running VM write to one of its disks.
func guestWrite(w http.ResponseWriter, r *http.Request) {
	var spec guestWriteSpec
	if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var vm *simulator.VirtualMachine
	for _, e := range simulator.Map.All("VirtualMachine") {
		if found, ok := e.(*simulator.VirtualMachine); ok && found.Name == spec.VM {
			vm = found
		}
	}
	if vm == nil || vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		http.Error(w, fmt.Sprintf("%s does not run", spec.VM), http.StatusConflict)
		return
	}
	simulator.Map.WithLock(vm, func() {
		tracking.Lock()
		defer tracking.Unlock()
		t := tracksOf(vm)
		d := disksOf(vm)[spec.Disk]
		disk := t.disks[d.Key]
		if t.active {
			for block := spec.Offset / blockBytes; block*blockBytes < spec.Offset+int64(len(spec.Data)); block++ {
				disk.changed[block] = disk.number
			}
		}
		if vm.Snapshot != nil {
			disk.held = append(disk.held, spec)
			return
		}
		if err := applyWrite(d, spec); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// resetTracking makes all change ids invalid, as a power failure or a storage
// migration does.
func resetTracking() {
	tracking.Lock()
	defer tracking.Unlock()
	for _, t := range tracking.vms {
		for _, disk := range t.disks {
			disk.uuid, disk.changed = uuid.New().String(), map[int64]int64{}
		}
	}
}

// serveFolder is the datastore browser's file access, with its faults.
func serveFolder(w http.ResponseWriter, r *http.Request, next http.Handler) {
	faults.Lock()
	f := faults.faultSpec
	cut := f.FolderCuts > 0
	if cut {
		faults.FolderCuts--
	}
	faults.Unlock()
	switch {
	case f.FolderStatus != 0:
		http.Error(w, "", f.FolderStatus)
	case cut || f.FolderBytesPerSec > 0:
		next.ServeHTTP(&slowWriter{ResponseWriter: w, perSec: f.FolderBytesPerSec, cut: cut}, r)
	default:
		next.ServeHTTP(w, r)
	}
}

// slowWriter writes so many bytes a second, or breaks off after the first piece.
type slowWriter struct {
	http.ResponseWriter
	perSec int64
	cut    bool
}

func (s *slowWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		end := written + 16<<10
		if end > len(p) {
			end = len(p)
		}
		n, err := s.ResponseWriter.Write(p[written:end])
		written += n
		if err != nil {
			return written, err
		}
		if s.cut {
			panic(http.ErrAbortHandler)
		}
		if s.perSec > 0 {
			time.Sleep(time.Duration(int64(n) * int64(time.Second) / s.perSec))
		}
	}
	return written, nil
}
