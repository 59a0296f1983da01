//go:build race

package ipam_test

// underRace: the race detector makes everything several times slower. The long tests run in full without it.
const underRace = true
