module ensign.mesh/testbed/guest

go 1.25
