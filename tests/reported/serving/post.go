// Three requests of Go's net/http on one connection: with a length, in chunks, and after "100 Continue".
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	data, err := os.ReadFile(os.Args[4])
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second}}
	bodies := []io.Reader{bytes.NewReader(data), io.MultiReader(bytes.NewReader(data)), bytes.NewReader(data)}
	for number, body := range bodies {
		request, err := http.NewRequest("POST", os.Args[1], body)
		if err != nil {
			panic(err)
		}
		request.Header.Set("Authorization", "Bearer "+os.Args[2])
		request.Header.Set("Content-Type", os.Args[3])
		if number == 2 {
			request.Header.Set("Expect", "100-continue")
		}
		response, err := client.Do(request)
		if err != nil {
			panic(err)
		}
		answer, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Println(response.StatusCode, string(answer))
	}
}
