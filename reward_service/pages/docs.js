// The API's documentation: Swagger UI over the service's own OpenAPI document.

const dark = matchMedia("(prefers-color-scheme: dark)");
const applyScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", applyScheme);
applyScheme();

globalThis.SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelRendering: "model", // the fields with their descriptions, not an example of made-up values
  validatorUrl: null, // nothing is sent elsewhere
});
