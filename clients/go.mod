module github.com/absfs/memmapfs/clients

go 1.24.0

replace github.com/absfs/memmapfs => ../

require (
	github.com/absfs/absfs v1.0.0
	github.com/absfs/basefs v1.0.0
	github.com/absfs/cachefs v1.0.0
	github.com/absfs/corfs v1.0.0
	github.com/absfs/lockfs v1.0.0
	github.com/absfs/memmapfs v0.0.0
	github.com/absfs/osfs v1.0.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/maxmind/mmdbwriter v1.2.0
	github.com/oschwald/maxminddb-golang/v2 v2.1.1
	github.com/parquet-go/parquet-go v0.25.1
)

require (
	github.com/absfs/inode v1.1.0 // indirect
	github.com/andybalholm/brotli v1.1.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/klauspost/compress v1.18.0 // indirect
	github.com/pierrec/lz4/v4 v4.1.21 // indirect
	go4.org/netipx v0.0.0-20231129151722-fdeea329fbba // indirect
	golang.org/x/sys v0.40.0 // indirect
	google.golang.org/protobuf v1.36.8 // indirect
)
