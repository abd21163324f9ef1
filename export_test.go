package memmapfs

import (
	"reflect"
	"syscall"
	"time"
)

// HookSyncMap has hook called in place of each flush of a mapped range, with the flush as its last
// argument, until restore is called. Nothing may be flushing meanwhile.
func HookSyncMap(hook func(data []byte, flush func(data []byte) error) error) (restore func()) {
	flush := system.syncMap
	system.syncMap = func(data []byte) error { return hook(data, flush) }
	return func() { system.syncMap = flush }
}

// hook replaces a system call by what with makes of it, until restore is called.
func hook[F any](call *F, with func(call F) F) (restore func()) {
	original := *call
	*call = with(original)
	return func() { *call = original }
}

// HookPopulate is hook for the call that brings pages in.
func HookPopulate(with func(call func(data []byte) error) func(data []byte) error) (restore func()) {
	return hook(&system.populate, with)
}

// HookAdvise is hook for madvise.
func HookAdvise(with func(call func(data []byte, advice int) error) func(data []byte, advice int) error) (restore func()) {
	return hook(&system.advise, with)
}

// HookReadAhead is hook for the call that has the system begin to read.
func HookReadAhead(with func(call func(fd uintptr, offset, length int64) error) func(fd uintptr, offset, length int64) error) (restore func()) {
	return hook(&system.readAhead, with)
}

// HookLock is hook for mlock.
func HookLock(with func(call func(data []byte) error) func(data []byte) error) (restore func()) {
	return hook(&system.lockPages, func(call func(data []byte, ordinary bool) error) func([]byte, bool) error {
		return func(data []byte, ordinary bool) error {
			return with(func(data []byte) error { return call(data, ordinary) })(data)
		}
	})
}

// HookPunchHole is hook for the call that frees blocks.
func HookPunchHole(with func(call func(fd uintptr, offset, length int64) error) func(fd uintptr, offset, length int64) error) (restore func()) {
	return hook(&system.punchHole, with)
}

// HookNoCache is hook for the call that turns the cache off.
func HookNoCache(with func(call func(fd uintptr) error) func(fd uintptr) error) (restore func()) {
	return hook(&system.noCache, with)
}

// FailCachedPages lets the question how many pages are in memory fail.
func FailCachedPages(err error) (restore func()) {
	return hook(&system.cachedPages, func(func(fd uintptr, offset, length int64) (int64, error)) func(fd uintptr, offset, length int64) (int64, error) {
		return func(uintptr, int64, int64) (int64, error) { return 0, err }
	})
}

// ShowCachedPages has the system say that all pages are in memory.
func ShowCachedPages() (restore func()) {
	return hook(&system.cachedPages, func(func(fd uintptr, offset, length int64) (int64, error)) func(fd uintptr, offset, length int64) (int64, error) {
		return func(_ uintptr, _, length int64) (int64, error) { return length / pageBytes, nil }
	})
}

// HookMap tells each map's flags to seen, which may let it fail.
func HookMap(seen func(write, private, sync bool) error) (restore func()) {
	return hook(&system.mapFile, func(call func(fd uintptr, offset int64, length, flags int) ([]byte, error)) func(fd uintptr, offset int64, length, flags int) ([]byte, error) {
		return func(fd uintptr, offset int64, length, flags int) ([]byte, error) {
			if err := seen(flags&mapWrite != 0, flags&mapPrivate != 0, flags&mapSync != 0); err != nil {
				return nil, err
			}
			return call(fd, offset, length, flags)
		}
	})
}

// InterceptSystemCalls asks before ahead of every system call of this package, by the call's name in
// the variable system, and lets the call fail with the error that before returns. It tells done of the
// calls that went well, with the map that they made or worked on. It lasts until the process ends, and
// is for one that has mapped nothing yet: mappings may be given back at any time.
func InterceptSystemCalls(before func(name string) error, done func(name string, data []byte)) {
	calls := reflect.ValueOf(&system).Elem()
	for i := range calls.NumField() {
		name := calls.Type().Field(i).Name
		// By its address, because reflection may not set a field that is not exported.
		field := reflect.NewAt(calls.Field(i).Type(), calls.Field(i).Addr().UnsafePointer()).Elem()
		call := reflect.ValueOf(field.Interface())
		field.Set(reflect.MakeFunc(field.Type(), func(arguments []reflect.Value) []reflect.Value {
			results := make([]reflect.Value, field.Type().NumOut())
			last := len(results) - 1
			if err := before(name); err != nil {
				for i := range results {
					results[i] = reflect.Zero(field.Type().Out(i))
				}
				results[last] = reflect.ValueOf(&err).Elem()
				return results
			}
			if name == "unmap" { // before, because another call may get the addresses at once
				done(name, arguments[0].Bytes())
				return call.Call(arguments)
			}
			results = call.Call(arguments)
			if results[last].IsNil() {
				for _, value := range append(arguments, results...) {
					if data, ok := value.Interface().([]byte); ok {
						done(name, data)
						break
					}
				}
			}
			return results
		}))
	}
}

// HintsOf returns the number of hints that the file remembers.
func HintsOf(f *MappedFile) int { return len(f.maps.lastingHints()) }

// MappingOf returns how the region's file is mapped.
func MappingOf(region *SharedMemory) Config { return region.mfs.handles.config }

// HookReserve has hook called in place of the reservation of blocks until restore is called.
func HookReserve(hook func(fd uintptr, size int64) error) (restore func()) {
	reserve := system.reserve
	system.reserve = hook
	return func() { system.reserve = reserve }
}

// HookLockGrowth has hook called before a creator asks for the lock of growth, until restore is called.
func HookLockGrowth(hook func()) (restore func()) {
	lock := system.lockGrowth
	system.lockGrowth = func(fd uintptr, directory string) (uintptr, error) {
		hook()
		return lock(fd, directory)
	}
	return func() { system.lockGrowth = lock }
}

// HideFaultAddresses has the addresses of faults be distrusted, as with qemu, until restore is called.
func HideFaultAddresses() (restore func()) {
	return hook(&tellsFaultAddress, func(func() bool) func() bool { return func() bool { return false } })
}

// ShowsItsDescriptor makes a file that embeds it count as one of a known type, whose bytes are those of its
// descriptor.
type ShowsItsDescriptor struct{}

func (ShowsItsDescriptor) showsItsDescriptor() {}

// HookGrowthHeld has hook called before it is asked whether a creator is at work, until restore
// is called.
func HookGrowthHeld(hook func()) (restore func()) {
	held := system.growthHeld
	system.growthHeld = func(fd uintptr, directory string) (bool, error) {
		hook()
		return held(fd, directory)
	}
	return func() { system.growthHeld = held }
}

// CoverGrowthLock has every creator find a lock of somebody else that covers theirs, until
// restore is called.
func CoverGrowthLock() (restore func()) {
	lock := system.lockGrowth
	system.lockGrowth = func(uintptr, string) (uintptr, error) { return 0, syscall.EBUSY }
	return func() { system.lockGrowth = lock }
}

// BelieveTouches has it believed that a first touch of a map costs as much as so many calls, as if that had
// been measured often enough, until restore is called.
func BelieveTouches(calls int64) (restore func()) {
	touch := &costs.touch
	value, samples := touch.load(), touch.samples.Load()
	touch.value.Store(calls * costs.call.load())
	touch.samples.Store(firstSamples)
	touch.passed.Store(0)
	return func() {
		touch.value.Store(value)
		touch.samples.Store(samples)
	}
}

// CostAfter returns what something is taken to cost after it was measured.
func CostAfter(measured ...time.Duration) time.Duration {
	var cost movingCost
	for _, took := range measured {
		cost.note(took)
	}
	return time.Duration(cost.load())
}

// MapCostAfter returns what a map is taken to cost after some were made that took so long.
func MapCostAfter(took ...time.Duration) time.Duration {
	var c machineCosts
	for _, one := range took {
		c.make.note(one)
		c.revoke.note(time.Microsecond)
	}
	return time.Duration(c.mapping())
}
