module github.com/absfs/memmapfs/stress

go 1.24.0

require (
	github.com/absfs/absfs v1.0.0
	github.com/absfs/memmapfs v0.0.0-00010101000000-000000000000
	github.com/absfs/osfs v1.0.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	golang.org/x/sys v0.40.0
)

replace github.com/absfs/memmapfs => ../
