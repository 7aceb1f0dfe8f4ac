/* Left out of the binary: the page uses swagger-ui-bundle.js. */
