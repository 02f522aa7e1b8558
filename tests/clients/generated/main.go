// Use the client that openapi-generator makes for Go: main URL TOKEN. Prints the code and the limit of a fault.
package main

import (
	"context"
	"fmt"
	"os"

	carts "cartsvc.example/shop/carts"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	configuration := carts.NewConfiguration()
	configuration.Servers = carts.ServerConfigurations{{URL: os.Args[1]}}
	as := context.WithValue(context.Background(), carts.ContextAccessToken, os.Args[2])
	api := carts.NewAPIClient(configuration).CartsAPI

	mug := carts.NewItemInput("mug", 2)
	mug.SetUnitPrice(10_000_000_000)
	mug.SetCurrency("EUR")
	_, _, err := api.AddItem(as, "alice").IdempotencyKey("go-1").ItemInput(*mug).Execute()
	must(err)
	cart, _, err := api.GetCart(as, "alice").Execute()
	must(err)
	if cart.TotalQuantity != 2 || *cart.Subtotal.Get() != 20_000_000_000 {
		panic(cart)
	}

	_, _, err = api.AddItem(as, "alice").ItemInput(*carts.NewItemInput("mug", 999)).Execute()
	problem := err.(*carts.GenericOpenAPIError).Model().(carts.AddItem409Response).LimitExceededProblem
	fmt.Println(problem.Errors[0].Code, *problem.Errors[0].Limit)

	_, err = api.DeleteCart(as, "alice").Execute()
	must(err)
}
