module example.org/ostler-driver

go 1.19
