import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.CartsApi;
import org.openapitools.client.model.Cart;
import org.openapitools.client.model.Fault;
import org.openapitools.client.model.ItemInput;
import org.openapitools.client.model.LimitExceededProblem;

/** Use the client that openapi-generator makes for Java: Main URL TOKEN. Prints the code and the limit of a fault. */
public class Main {
    public static void main(String[] arguments) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        client.setRequestInterceptor(request -> request.setHeader("Authorization", "Bearer " + arguments[1]));
        CartsApi api = new CartsApi(client);

        ItemInput mug = new ItemInput().productId("mug").quantity(2L).unitPrice(10_000_000_000L).currency("EUR");
        api.addItem("alice", mug, "java-1", null, null);
        Cart cart = api.getCart("alice", null);
        if (cart.getTotalQuantity() != 2 || cart.getSubtotal() != 20_000_000_000L) {
            throw new AssertionError(cart);
        }

        try {
            api.addItem("alice", new ItemInput().productId("mug").quantity(999L), null, null, null);
        } catch (ApiException error) {
            String body = error.getResponseBody();
            LimitExceededProblem problem = ApiClient.createDefaultObjectMapper().readValue(body, LimitExceededProblem.class);
            Fault fault = problem.getErrors().get(0);
            System.out.println(fault.getCode() + " " + fault.getLimit());
        }

        api.deleteCart("alice", null, null, null);
    }
}
