// River (Go) with the settings and the bookkeeping of its own `river bench`: 2,000 workers, a fetch cooldown of 2 ms,
// batches of 5,000, completions counted by subscription.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	batch  = 5_000
	warmUp = time.Second
)

var (
	url       = flag.String("url", "", "the database")
	mode      = flag.String("case", "", "burn-down, continuous or latency")
	jobs      = flag.Int("jobs", 200_000, "")
	backlog   = flag.Int("backlog", 75_000, "")
	seconds   = flag.Float64("seconds", 60, "")
	rate      = flag.Float64("rate", 100, "jobs a second")
	producers = flag.Int("producers", 16, "")
)

type args struct {
	At int64 `json:"at"`
}

func (args) Kind() string { return "bench" }

type worker struct {
	river.WorkerDefaults[args]
	seen func(at int64)
}

func (w *worker) Work(_ context.Context, job *river.Job[args]) error {
	w.seen(job.Args.At)
	return nil
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func report(name, unit string, value float64) {
	fmt.Println(string(must(json.Marshal(map[string]any{"case": name, "unit": unit, "value": value}))))
}

func open(ctx context.Context) *riverpgxv5.Driver {
	config := must(pgxpool.ParseConfig(*url))
	config.MaxConns = 20
	return riverpgxv5.New(must(pgxpool.NewWithConfig(ctx, config)))
}

func client(ctx context.Context, seen func(int64)) *river.Client[pgx.Tx] {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{seen: seen})
	return must(river.NewClient(open(ctx), &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2_000}},
		Workers:           workers,
	}))
}

func fill(ctx context.Context, client *river.Client[pgx.Tx], count int) {
	for count > 0 {
		params := make([]river.InsertManyParams, min(count, batch))
		for i := range params {
			params[i].Args = args{}
		}
		must(client.InsertMany(ctx, params))
		count -= len(params)
	}
}

func main() {
	flag.Parse()
	ctx := context.Background()
	must(must(rivermigrate.New(open(ctx), nil)).Migrate(ctx, rivermigrate.DirectionUp, nil))
	if *mode == "latency" {
		latency(ctx)
		return
	}
	client := client(ctx, func(int64) {})
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: 75_000,
		Kinds:    []river.EventKind{river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed},
	})
	defer cancel()
	var done atomic.Int64
	finished := make(chan struct{})
	go func() {
		for event := range events {
			if event.Kind != river.EventKindJobCompleted {
				check(fmt.Errorf("a job ended as %s", event.Kind))
			}
			if done.Add(1) == int64(*jobs) && *mode == "burn-down" {
				close(finished)
			}
		}
	}()
	if *mode == "burn-down" {
		fill(ctx, client, *jobs)
		started := time.Now()
		check(client.Start(ctx))
		<-finished
		report("burn-down", "jobs/s", float64(*jobs)/time.Since(started).Seconds())
	} else {
		fill(ctx, client, *backlog)
		check(client.Start(ctx))
		started := time.Now()
		go func() {
			for inserted := *backlog; ; time.Sleep(250 * time.Millisecond) {
				missing := max(*backlog-(inserted-int(done.Load())), 0)
				fill(ctx, client, missing)
				inserted += missing
			}
		}()
		time.Sleep(time.Duration(*seconds * float64(time.Second)))
		report("continuous load", "jobs/s", float64(done.Load())/time.Since(started).Seconds())
		// The producer is in the middle of something, and nobody needs its jobs.
		os.Exit(0)
	}
	check(client.Stop(ctx))
}

// One job a commit, evenly spaced, from a client of their own.
func latency(ctx context.Context) {
	window := warmUp + time.Duration(*seconds*float64(time.Second))
	total := int(window.Seconds() * *rate)
	var lock sync.Mutex
	var waits []float64
	var started, enqueued atomic.Int64
	counted := time.Now().Add(warmUp).UnixNano()
	worker := client(ctx, func(at int64) {
		now := time.Now().UnixNano()
		if at >= counted {
			lock.Lock()
			waits = append(waits, float64(now-at)/1e6)
			lock.Unlock()
		}
		started.Add(1)
	})
	check(worker.Start(ctx))
	inserter := must(river.NewClient(open(ctx), &river.Config{}))
	begun := time.Now()
	var group sync.WaitGroup
	for producer := range *producers {
		group.Go(func() {
			for job := producer; job < total; job += *producers {
				// Whoever cannot keep up ends in time, with less.
				if time.Since(begun) > window {
					break
				}
				time.Sleep(time.Until(begun.Add(time.Duration(float64(job) / *rate * float64(time.Second)))))
				must(inserter.Insert(ctx, args{At: time.Now().UnixNano()}, nil))
				enqueued.Add(1)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(begun).Seconds()
	for patience := time.Now(); started.Load() < enqueued.Load(); time.Sleep(20 * time.Millisecond) {
		if time.Since(patience) > 120*time.Second {
			check(fmt.Errorf("not every job was started"))
		}
	}
	lock.Lock()
	defer lock.Unlock()
	sort.Float64s(waits)
	report("p50", "ms", waits[int(float64(len(waits)-1)*0.50)])
	report("p99", "ms", waits[int(float64(len(waits)-1)*0.99)])
	report("rate", "jobs/s", float64(enqueued.Load())/elapsed)
}
