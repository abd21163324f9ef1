module github.com/absfs/memmapfs

go 1.24.0

require (
	github.com/absfs/absfs v1.0.0
	github.com/absfs/fstesting v1.0.0
	github.com/absfs/memfs v1.1.0
	github.com/absfs/osfs v1.0.0
	golang.org/x/sys v0.40.0
)

require github.com/absfs/inode v1.0.0 // indirect
