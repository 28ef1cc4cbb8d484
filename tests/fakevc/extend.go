package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// extend replaces the singletons whose gaps matter here. Registry objects are
// embedded by value: the simulator's property collector does not follow a
// pointer, and makes its per-session copies with reflect.New.
func extend(standalone bool) {
	collector, ovf := "propertyCollector", "OvfManager"
	if standalone {
		collector, ovf = "ha-property-collector", "ha-ovf-manager"
	}
	for ref, obj := range map[types.ManagedObjectReference]mo.Reference{
		{Type: "PropertyCollector", Value: collector}: &propertyCollector{},
		{Type: "OvfManager", Value: ovf}:              &ovfManager{},
	} {
		reflect.ValueOf(obj).Elem().FieldByName("Self").Set(reflect.ValueOf(ref))
		simulator.Map.Put(obj)
	}
}

// propertyCollector answers Fetch of an unset property with nothing, as
// vCenter does; 0.24.2 panics, which drops the connection.
type propertyCollector struct{ simulator.PropertyCollector }

type FetchResponse struct {
	Returnval types.AnyType `xml:"returnval,omitempty,typeattr"`
}

type fetchBody struct{ Res *FetchResponse }

func (*fetchBody) Fault() *soap.Fault { return nil }

// Fetch takes the request as interface{} because its type is internal to govmomi.
func (pc *propertyCollector) Fetch(ctx *simulator.Context, req interface{}) soap.HasFault {
	this := reflect.ValueOf(req).Elem().FieldByName("This").Interface().(types.ManagedObjectReference)
	prop := reflect.ValueOf(req).Elem().FieldByName("Prop").String()
	if res, ok := pc.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{{
		PropSet:   []types.PropertySpec{{Type: this.Type, PathSet: []string{prop}}},
		ObjectSet: []types.ObjectSpec{{Obj: this}},
	}}}).(*methods.RetrievePropertiesExBody); ok && res.Res != nil {
		if o := res.Res.Returnval.Objects; len(o) == 1 && len(o[0].PropSet) == 0 && len(o[0].MissingSet) == 0 {
			return &fetchBody{Res: new(FetchResponse)}
		}
	}
	fetch := reflect.ValueOf(&pc.PropertyCollector).MethodByName("Fetch")
	return fetch.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(req)})[0].Interface().(soap.HasFault)
}

// vmExt holds the methods that virtual machines get from us. The simulator
// asserts its own *VirtualMachine type all over, so ours cannot take its place
// in the registry; instead front redirects these calls to a vmExt of the same id.
type vmExt struct{ Self types.ManagedObjectReference }

const vmExtType = "TestVirtualMachine"

func (x *vmExt) Reference() types.ManagedObjectReference { return x.Self }

func (x *vmExt) vm() *simulator.VirtualMachine {
	return simulator.Map.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: x.Self.Value}).(*simulator.VirtualMachine)
}

var (
	redirected = regexp.MustCompile(`<(?:\w+:)?(?:ExportVm|CloneVM_Task|Destroy_Task|PowerOnVM_Task|CreateSnapshot_Task|` +
		`QueryChangedDiskAreas|ReconfigVM_Task|RemoveSnapshot_Task|ShutdownGuest)[ >/]`)
	thisVM = regexp.MustCompile(`(<(?:\w+:)?_this\b[^>]*\btype=")(VirtualMachine|VirtualMachineSnapshot)("[^>]*>)([^<]+)<`)
)

// redirect points a call of one of vmExt's methods at the vmExt.
func redirect(body []byte) []byte {
	m := thisVM.FindSubmatch(body)
	if m == nil || !redirected.Match(body) {
		return body
	}
	kind, id := string(m[2]), string(m[4])
	switch simulator.Map.Get(types.ManagedObjectReference{Type: kind, Value: id}).(type) {
	case *simulator.VirtualMachine:
		simulator.Map.Put(&vmExt{Self: types.ManagedObjectReference{Type: vmExtType, Value: id}})
	case *simulator.VirtualMachineSnapshot:
		simulator.Map.Put(&snapshotExt{Self: types.ManagedObjectReference{Type: snapshotExtType, Value: id}})
	default:
		return body // the simulator answers that it is gone
	}
	return bytes.Replace(body, m[0], thisVM.ReplaceAll(m[0], []byte("${1}Test${2}${3}${4}<")), 1)
}

// CloneVMTask runs the simulator's clone as a task that takes clone_ms, gives
// the source its own disk backings back (0.24.2 shares the device structs, so
// the source ends up on the clone's files) and the clone the source's content.
func (x *vmExt) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	vm := x.vm()
	req.This, ctx.Caller = vm.Self, &vm.Self
	f := faults.get()
	task := simulator.CreateTask(vm, "cloneVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		time.Sleep(time.Duration(f.CloneMs) * time.Millisecond)
		if f.CloneError != "" {
			return nil, &types.InsufficientResourcesFault{}
		}
		var inner types.TaskInfo
		simulator.Map.WithLock(vm, func() {
			saved := copied(vm.Config.Hardware.Device)
			ref := vm.CloneVMTask(ctx, req).(*methods.CloneVM_TaskBody).Res.Returnval
			vm.Config.Hardware.Device = saved
			inner = simulator.Map.Get(ref).(*simulator.Task).Info
		})
		if inner.Error != nil {
			return nil, inner.Error.Fault
		}
		clone := simulator.Map.Get(inner.Result.(types.ManagedObjectReference)).(*simulator.VirtualMachine)
		clone.Config.Firmware, clone.Config.BootOptions = vm.Config.Firmware, vm.Config.BootOptions // 0.24.2 drops them
		if c := req.Spec.Config; c != nil {
			clone.Config.Annotation = c.Annotation
		}
		from, to := disksOf(vm), disksOf(clone)
		for i := range to {
			if src, err := filepath.EvalSymlinks(diskFile(from[i])); err == nil {
				_ = os.Remove(diskFile(to[i]))
				_ = os.Symlink(src, diskFile(to[i]))
			}
		}
		return inner.Result, nil
	})
	task.Info.Name = "CloneVM_Task"     // pyVim.task looks up the method of a running task
	simulator.Map.WithLock(vm, func() { // 0.24.2 keeps no list of a VM's tasks
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "recentTask", Val: append(vm.RecentTask, task.Self)}})
	})
	go task.Run()
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: task.Self}}
}

// DestroyTask and PowerOnVMTask refuse while an export holds the VM.

func (x *vmExt) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) (res soap.HasFault) {
	if f := faults.get(); f.DestroyError != "" {
		return &methods.Destroy_TaskBody{Fault_: simulator.Fault(f.DestroyError, &types.NotSupported{})}
	}
	if fault := x.held(); fault != nil {
		return &methods.Destroy_TaskBody{Fault_: fault}
	}
	vm := x.vm()
	req.This, ctx.Caller = vm.Self, &vm.Self
	simulator.Map.WithLock(vm, func() { res = vm.DestroyTask(ctx, req) })
	return res
}

func (x *vmExt) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) (res soap.HasFault) {
	if fault := x.held(); fault != nil {
		return &methods.PowerOnVM_TaskBody{Fault_: fault}
	}
	vm := x.vm()
	req.This, ctx.Caller = vm.Self, &vm.Self
	simulator.Map.WithLock(vm, func() { res = vm.PowerOnVMTask(ctx, req) })
	return res
}

// ShutdownGuest only asks the guest: it answers at once, and the VM is off when
// the guest has ended, which shutdown_held puts off.
func (x *vmExt) ShutdownGuest(ctx *simulator.Context, req *types.ShutdownGuest) (res soap.HasFault) {
	vm := x.vm()
	req.This, ctx.Caller = vm.Self, &vm.Self
	if !faults.get().ShutdownHeld || vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		simulator.Map.WithLock(vm, func() { res = vm.ShutdownGuest(ctx, req) })
		return res
	}
	simulator.Map.WithLock(vm, func() {
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "guest.guestState", Val: "shuttingDown"}})
	})
	go func() {
		for faults.get().ShutdownHeld {
			time.Sleep(20 * time.Millisecond)
		}
		simulator.Map.WithLock(vm, func() { vm.ShutdownGuest(ctx, req) })
	}()
	return &methods.ShutdownGuestBody{Res: new(types.ShutdownGuestResponse)}
}

// copied makes devices of their own: the simulator shares the pointers.
func copied(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	var saved types.ArrayOfVirtualDevice
	raw, err := xml.Marshal(types.ArrayOfVirtualDevice{VirtualDevice: devices})
	must(err)
	dec := xml.NewDecoder(bytes.NewReader(raw))
	dec.TypeFunc = types.TypeFunc()
	must(dec.Decode(&saved))
	return saved.VirtualDevice
}

func disksOf(vm *simulator.VirtualMachine) (out []*types.VirtualDisk) {
	for _, d := range vm.Config.Hardware.Device {
		if disk, ok := d.(*types.VirtualDisk); ok {
			out = append(out, disk)
		}
	}
	return out
}

// diskFile is the file of a disk in the simulator's datastore directory.
func diskFile(d *types.VirtualDisk) string {
	b := d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo()
	var p object.DatastorePath
	p.FromString(b.FileName)
	ds := simulator.Map.Get(*b.Datastore).(*simulator.Datastore)
	return filepath.Join(ds.Info.GetDatastoreInfo().Url, p.Path)
}

// front stands before the simulator's handler.
type front struct {
	next http.Handler
	user string
}

func (f *front) loggedIn(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	res := simulator.Map.SessionManager().SessionIsActive(&simulator.Context{Map: simulator.Map},
		&types.SessionIsActive{SessionID: cookie.Value, UserName: f.user})
	return res.(*methods.SessionIsActiveBody).Res.Returnval
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case len(r.URL.Path) > 8 && r.URL.Path[:8] == "/folder/" && !f.loggedIn(r): // 0.24.2 serves it to anyone
		http.Error(w, "", http.StatusUnauthorized)
	case len(r.URL.Path) > 8 && r.URL.Path[:8] == "/folder/":
		serveFolder(w, r, f.next)
	case len(r.URL.Path) > 5 && r.URL.Path[:5] == "/nfc/":
		if faults.get().NFCSession && !f.loggedIn(r) {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		serveNFC(w, r)
	case r.URL.Path == "/sdk" && faults.get().SoapDown:
		http.Error(w, "", http.StatusServiceUnavailable)
	case r.URL.Path == "/sdk" && r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(redirect(body)))
		f.next.ServeHTTP(w, r)
	default:
		f.next.ServeHTTP(w, r)
	}
}
