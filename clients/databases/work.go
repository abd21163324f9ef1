package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
)

const (
	batchSize = 250
	// keptFor is the number of records after which one in ten is removed again.
	keptFor = 1000
)

// removed says whether a record is removed when the records before next are written.
func removed(number, next int) bool { return number%10 == 3 && number+keptFor < next }

// fill writes the records from first to last, in batches, and removes some. It calls written
// after each batch with the number of the next record.
func fill(db database, first, last int, written func(next int)) error {
	for next := first; next < last; {
		store := map[int]string{}
		var remove []int
		end := min(next+batchSize, last)
		for number := next; number < end; number++ {
			store[number] = record(number)
			if old := number - keptFor; old >= 0 && removed(old, end) {
				remove = append(remove, old)
			}
		}
		if err := db.write(store, remove); err != nil {
			return err
		}
		next = end
		written(next)
	}
	return nil
}

// read looks for count records of those before last, always the same ones.
func read(db database, count, last int) error {
	random := rand.New(rand.NewPCG(9, 5))
	for range count {
		number := random.IntN(last)
		found, err := db.get(number)
		if err != nil {
			return err
		}
		if want := wanted(number, last); found != want {
			return fmt.Errorf("record %d is %q, want %q", number, found, want)
		}
	}
	return nil
}

// wanted returns what has to be found for a number when the records before last are written.
func wanted(number, last int) string {
	if removed(number, last) {
		return ""
	}
	return record(number)
}

// digest reads all records and describes them, in the order of their numbers.
func digest(db interface {
	each(fn func(number int, record string)) error
}) (string, error) {
	records := map[int][sha256.Size]byte{}
	err := db.each(func(number int, record string) { records[number] = sha256.Sum256([]byte(record)) })
	numbers := make([]int, 0, len(records))
	for number := range records {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	all := sha256.New()
	for _, number := range numbers {
		fmt.Fprintf(all, "%d %x\n", number, records[number])
	}
	return fmt.Sprintf("%d records, %x", len(numbers), all.Sum(nil)[:8]), err
}

// expected is the digest of the records before last.
func expected(last int) string {
	found, _ := digest(expectation(last))
	return found
}

type expectation int

func (e expectation) each(fn func(number int, record string)) error {
	for number := range int(e) {
		if !removed(number, int(e)) {
			fn(number, record(number))
		}
	}
	return nil
}
