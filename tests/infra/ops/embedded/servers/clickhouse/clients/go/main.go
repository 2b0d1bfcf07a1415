// Reads and writes through clickhouse-go over HTTP, and prints one line of JSON for each step that went as it should.
//
//	client ADDRESS COMPRESSION
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const wideQuery = `
SELECT toInt64(1) AS id, 'ä' AS text, toDateTime64('2026-11-24 12:30:00.123', 3, 'UTC') AS at, map('a', 'b', 'c', '') AS more,
       [toUInt8(1), 2] AS numbers, CAST('low' AS LowCardinality(String)) AS low, CAST(NULL AS Nullable(Int32)) AS missing,
       CAST(7 AS Nullable(Int32)) AS present, CAST(['x', NULL, 'x'], 'Array(LowCardinality(Nullable(String)))') AS nested,
       CAST((1, 'two'), 'Tuple(a Int8, b String)') AS pair, toFixedString('abc', 4) AS fixed,
       CAST([], 'Array(LowCardinality(String))') AS empty, toDecimal64(12.5, 2) AS decimal,
       toUUID('01234567-89ab-cdef-0123-456789abcdef') AS identifier, [map('k', [toInt16(3)])] AS deep`

var compressions = map[string]clickhouse.CompressionMethod{
	"none": clickhouse.CompressionNone,
	"lz4":  clickhouse.CompressionLZ4,
	"zstd": clickhouse.CompressionZSTD,
	"gzip": clickhouse.CompressionGZIP,
	"br":   clickhouse.CompressionBrotli,
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, compression string) error {
	options := &clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{address},
		Auth:        clickhouse.Auth{Database: "default", Username: "default"},
		Compression: &clickhouse.Compression{Method: compressions[compression], Level: 1},
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx := context.Background()
	steps := []struct {
		name string
		run  func(context.Context, driver.Conn) (any, error)
	}{{"wide", wide}, {"parameters", parameters}, {"many", many}, {"batch", batch}, {"refused", refused}}
	for _, step := range steps {
		result, err := step.run(ctx, conn)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		line, err := json.Marshal(map[string]any{step.name: result})
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

func wide(ctx context.Context, conn driver.Conn) (any, error) {
	rows, err := conn.Query(ctx, wideQuery)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	values := map[string]any{}
	for rows.Next() {
		pointers := make([]any, len(rows.Columns()))
		for index, column := range rows.ColumnTypes() {
			pointers[index] = reflect.New(column.ScanType()).Interface()
		}
		if err := rows.Scan(pointers...); err != nil {
			return nil, err
		}
		for index, name := range rows.Columns() {
			values[name] = reflect.ValueOf(pointers[index]).Elem().Interface()
		}
	}
	return values, rows.Err()
}

func parameters(ctx context.Context, conn driver.Conn) (any, error) {
	var text string
	var number int32
	bound := clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"text": "it's", "number": "-5"}))
	err := conn.QueryRow(bound, "SELECT {text:String}, {number:Int32}").Scan(&text, &number)
	return []any{text, number}, err
}

func many(ctx context.Context, conn driver.Conn) (any, error) {
	rows, err := conn.Query(ctx, "SELECT number, toString(number), number % 3 = 0 ? NULL : number FROM numbers(100000)")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var sum, count, nulls uint64
	for rows.Next() {
		var number uint64
		var text string
		var maybe *uint64
		if err := rows.Scan(&number, &text, &maybe); err != nil {
			return nil, err
		}
		if text != fmt.Sprint(number) {
			return nil, fmt.Errorf("row %d reads %q", number, text)
		}
		if maybe == nil {
			nulls++
		}
		sum, count = sum+number, count+1
	}
	return []uint64{count, sum, nulls}, rows.Err()
}

func batch(ctx context.Context, conn driver.Conn) (any, error) {
	for _, statement := range []string{
		"DROP TABLE IF EXISTS go_rows",
		"CREATE TABLE go_rows (id Int64, name LowCardinality(String), at DateTime64(3, 'UTC'), more Map(String, String)) " +
			"ENGINE = MergeTree ORDER BY id",
	} {
		if err := conn.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	insert, err := conn.PrepareBatch(ctx, "INSERT INTO go_rows")
	if err != nil {
		return nil, err
	}
	at := time.UnixMilli(1_796_000_000_123).UTC()
	for id := int64(0); id < 50_000; id++ {
		if err := insert.Append(id, fmt.Sprint("name ", id%7), at, map[string]string{"a": "b"}); err != nil {
			return nil, err
		}
	}
	if err := insert.Send(); err != nil {
		return nil, err
	}
	var count, names uint64
	var latest time.Time
	err = conn.QueryRow(ctx, "SELECT count(), uniqExact(name), max(at) FROM go_rows").Scan(&count, &names, &latest)
	return []any{count, names, latest.Equal(at)}, err
}

func refused(ctx context.Context, conn driver.Conn) (any, error) {
	err := conn.QueryRow(ctx, "SELECT * FROM nowhere").Err()
	var exception *clickhouse.Exception
	if !errors.As(err, &exception) {
		return nil, fmt.Errorf("not an exception of ClickHouse: %v", err)
	}
	return exception.Code, nil
}
