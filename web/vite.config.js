// Bundles and minifies; adds nothing. The names carry no hashes, because the hub's `static_url`
// adds the version of each file as a query, as JupyterHub's does.
import { cpSync, readdirSync } from "node:fs";
import { defineConfig } from "vite";

const scripts = readdirSync(new URL("src/js", import.meta.url)).filter((name) => name.endsWith(".js"));

// For scripts in sites' own templates, at the address that JupyterHub has it; see src/js/compat.js.
const jquery = {
  name: "copy-jquery",
  closeBundle() {
    const path = "jquery/dist/jquery.min.js";
    cpSync(new URL(`node_modules/${path}`, import.meta.url), new URL(`dist/components/${path}`, import.meta.url));
  },
};

export default defineConfig({
  plugins: [jquery],
  root: "src",
  base: "./",
  publicDir: "../public",
  build: {
    outDir: "../dist",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      // Every module is an entry, so that each keeps its address and is shared as it stands.
      input: Object.fromEntries([
        ...scripts.map((name) => [`js/${name.replace(/\.js$/, "")}`, new URL(`src/js/${name}`, import.meta.url).pathname]),
        ["css/style", new URL("src/css/style.css", import.meta.url).pathname],
      ]),
      preserveEntrySignatures: "strict",
      output: {
        entryFileNames: "[name].js",
        chunkFileNames: "js/[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
});
