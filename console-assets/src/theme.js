// The theme link works without script (the server keeps the choice); here it changes in place.
const NEXT = { system: "light", light: "dark", dark: "system" };
const YEAR_S = 31536000;

export function watchTheme() {
  const link = document.querySelector("[data-theme-link]");
  link?.addEventListener("click", (event) => {
    event.preventDefault();
    const root = document.documentElement;
    const theme = NEXT[root.dataset.theme] ?? "light";
    root.dataset.theme = theme;
    document.cookie = `tremplin_theme=${theme}; path=/; max-age=${YEAR_S}; samesite=lax`;
    link.href = `?theme=${NEXT[theme]}`;
    const label = link.dataset[`label${theme[0].toUpperCase()}${theme.slice(1)}`];
    link.setAttribute("aria-label", label);
    link.title = label;
  });
}
