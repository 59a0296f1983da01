//go:build race

package ipam_test

const underRace = true
