package codec_test

import (
	"fmt"
	"strings"

	"github.com/nearkv/nearkv/codec"
)

func ExampleSubject() {
	for _, key := range []string{"config/theme", "user:123", "a..b", "naïve", "user:"} {
		subject := codec.Subject(key)
		back, err := codec.Key(subject)
		fmt.Println(subject, back == key, err)
	}
	// Output:
	// config/theme true <nil>
	// user=3A.123 true <nil>
	// a.=2Eb true <nil>
	// na=C3=AFve true <nil>
	// user=3A true <nil>
}

func ExampleMsgPack() {
	type User struct {
		Name  string   `msgpack:"name"`
		Roles []string `msgpack:"roles"`
	}
	users := codec.MsgPack[User]()

	data, err := users.Append(nil, User{Name: "ann", Roles: []string{"admin"}})
	fmt.Println(len(data), err)
	user, err := users.Decode(data)
	fmt.Println(user, err)
	_, err = users.Decode(append(data, 0))
	fmt.Println(err)
	// Output:
	// 23 <nil>
	// {ann [admin]} <nil>
	// decode codec_test.User from MessagePack: 1 bytes after the value
}

func ExampleEncodeMetadata() {
	metadata, err := codec.EncodeMetadata(map[string]any{"type": "text/html", "by": "<ann>"})
	fmt.Println(string(metadata), err)
	metadata, err = codec.EncodeMetadata(nil)
	fmt.Println(metadata == nil, err)
	// Output:
	// {"by":"<ann>","type":"text/html"} <nil>
	// true <nil>
}

func ExampleReadBulk() {
	file := strings.NewReader(`[
  {"key": "user:7", "value": "Ada", "expiration_ttl": 3600},
  {"key": "logo", "value": "/9j/", "base64": true, "metadata": {"type": "image/jpeg"}},
  {"key": "", "value": "no"}
]`)
	for pair, err := range codec.ReadBulk(file, codec.BulkOptions{}) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Printf("%s %q %v %q\n", pair.Key, pair.Value, pair.TTL, pair.Metadata)
	}
	// Output:
	// user:7 "Ada" 1h0m0s ""
	// logo "\xff\xd8\xff" 0s "{\"type\":\"image/jpeg\"}"
	// line 4, column 11 (element 2): invalid key "": empty
}
