// Starts Swagger UI on this service's own description, which lies beside the page.

// An operation has about ten problems. Their examples are closed, because they would bury the parts that people fill in.
const ClosedProblems = ({ React }) => ({
  wrapComponents: {
    response: (Response) =>
      function ClosedResponse(props) {
        const [isOpen, setOpen] = React.useState(false);
        if (Number(props.code) < 400) return React.createElement(Response, props);
        const description = props.response.get("description");
        const toggle = React.createElement(
          "button",
          { type: "button", className: "model-box-control", "aria-expanded": isOpen, onClick: () => setOpen(!isOpen) },
          `${isOpen ? "▾" : "▸"} ${description}`,
        );
        const row = React.createElement(
          "tr",
          { className: "response", "data-code": props.code },
          React.createElement("td", { className: "response-col_status" }, props.code),
          React.createElement("td", { className: "response-col_description", colSpan: 2 }, toggle),
        );
        const opened = { ...props, response: props.response.set("description", "") };
        return React.createElement(React.Fragment, null, row, isOpen && React.createElement(Response, opened));
      },
  },
});

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [ClosedProblems],
  layout: "BaseLayout",
});
