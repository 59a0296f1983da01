package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
)

// sumSize is the length of the checksum in front of every value.
const sumSize = 4

func sum(key string, data []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	return crc32.Update(crc32.Checksum([]byte(key), table), table, data)
}

func seal(key string, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, sumSize+len(data)), sum(key, data)), data...)
}

func unseal(key string, sealed []byte) ([]byte, error) {
	if len(sealed) < sumSize {
		return nil, errors.New("value too short")
	}
	data := sealed[sumSize:]
	if binary.BigEndian.Uint32(sealed) != sum(key, data) {
		return nil, errors.New("checksum mismatch")
	}
	return data, nil
}

// tally is what the values of a bucket add up to: one that was lost, with its page or its place in a page, is missed.
type tally struct {
	Count int    `json:"count"`
	Sum   uint32 `json:"sum"` // of the checksums, exclusive or
}

func (t tally) with(sealed []byte) tally    { return t.add(sealed, 1) }
func (t tally) without(sealed []byte) tally { return t.add(sealed, -1) }

func (t tally) add(sealed []byte, n int) tally {
	if sealed == nil {
		return t
	}
	return tally{Count: t.Count + n, Sum: t.Sum ^ binary.BigEndian.Uint32(sealed)}
}

func (t tally) plus(u tally) tally { return tally{Count: t.Count + u.Count, Sum: t.Sum ^ u.Sum} }

// sums are the tallies of all buckets after a change, which is given as the difference.
func sums(before, change map[string]tally) map[string]tally {
	after := maps.Clone(before)
	for bucket, t := range change {
		if bucket != metaName {
			after[bucket] = after[bucket].plus(t)
		}
	}
	return after
}

func decode[V any](bucket, key string, sealed []byte) (v V, err error) {
	data, err := unseal(key, sealed)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		return v, fmt.Errorf("read %s %q: %w: %w", bucket, key, ErrCorrupt, err)
	}
	return v, nil
}
