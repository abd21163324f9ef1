package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if served, err := servePeer(); served {
		exitOn(err)
		return
	}
	os.Exit(m.Run())
}

// Every kind of channel brings the messages, in their order and back, and the table has a row
// for it.
func TestChannels(t *testing.T) {
	results, err := measure(1, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	printTable(&table, results)
	for _, result := range results {
		if result.roundTrip[0] <= 0 || result.messages[0] <= 0 || result.throughput[0] <= 0 {
			t.Errorf("%s: %+v", result.kind, result)
		}
		if !strings.Contains(table.String(), "| "+result.kind+" |") {
			t.Errorf("no row for %s in\n%s", result.kind, table.String())
		}
	}
}

// A message that is lost or comes twice is an error, and not a figure.
func TestCountsInOrder(t *testing.T) {
	opened, err := openChannel(pipeKind)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := order(opened, orderTake, 3, small); err != nil {
		t.Fatal(err)
	}
	for _, number := range []byte{0, 2, 2} {
		if _, err := fmt.Fprintf(opened, "%c%s", number, make([]byte, small-1)); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 8)
	if _, err := opened.Read(answer); err != nil || answer[0] != 2 {
		t.Errorf("the peer counts %d in order, %v; want 2", answer[0], err)
	}
}
