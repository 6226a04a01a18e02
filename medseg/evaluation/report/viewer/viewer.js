"use strict";
// Drives NiiVue in a report or in the page of `medseg view`. Without WebGL2, or if anything here fails, the page's pictures stay.
(() => {
  const $ = (id) => document.getElementById(id);
  const { cases, engine } = JSON.parse($("viewer-cases").textContent);
  const panel = $("viewer"), canvas = $("viewer-canvas"), stage = $("viewer-stage");
  const SLICES = { "three planes and 3D": 3, axial: 0, coronal: 1, sagittal: 2, "3D": 4 };
  const CROSSHAIR_MM = 0.4; // thin: never wider than what it points at
  let nv, shown, quiet = false, layers = {}, hidden = new Set(), marks = [], restore = () => {};

  const say = (words) => { $("viewer-say").textContent = words; };

  async function unpacked(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function fromBase64(text) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  }

  function hasWebGL2() {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(context);
  }

  async function startEngine() {
    const source = await unpacked(fromBase64($("viewer-engine").textContent));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", source));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== engine) throw new Error(`the viewer's code has SHA-256 ${found}, expected ${engine}`);
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(source);
    document.head.append(script);
    if (!window.niivue) throw new Error("this browser does not run the viewer's code");
  }

  // The pictures come first: nothing heavy begins before they are on the screen. A hidden tab draws nothing, so it does not wait.
  const painted = () => new Promise((done) => {
    new PerformanceObserver(() => setTimeout(done)).observe({ type: "paint", buffered: true });
    setTimeout(done, document.hidden ? 0 : 3000);
  });

  async function begin() {
    if (!hasWebGL2()) throw new Error("this browser offers no WebGL2");
    await $(cases[0].anchor)?.querySelector("img")?.decode().catch(() => {});
    await painted();
    await startEngine();
    nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: false, isOrientCube: true,
      crosshairWidth: CROSSHAIR_MM, crosshairWidthUnit: "mm", crosshairColor: [0.2, 1, 0.4, 0.8], show3Dcrosshair: true,
      dragAndDropEnabled: false, multiplanarShowRender: 1, tileMargin: 0, multiplanarPadPixels: 2, logLevel: "error",
      viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", isAntiAlias: false, loadingText: "",
    });
    place(cases[0]);
    nv.onLocationChange = showPlace;
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = (...given) => { if (quiet) return ""; const result = draw(...given); mark(); return result; };
    const update = nv.updateGLVolume.bind(nv); // the engine would make its textures again after every volume and setting
    nv.updateGLVolume = () => { if (!quiet) update(); };
    await nv.attachToCanvas(canvas, false);
    wire();
    await open(cases[0]);
  }

  // The panel goes where the picture of the case stands, which is hidden when the volumes are there and comes back afterwards.
  function place(one) {
    restore();
    const figure = $(one.anchor), picture = figure?.querySelector("img");
    panel.hidden = false;
    if (!figure || !picture) return;
    figure.classList.add("looking");
    picture.before(panel);
    $("viewer-picture").onchange = (event) => { picture.hidden = !event.target.checked; };
    restore = () => { picture.hidden = false; figure.classList.remove("looking"); };
  }

  async function bytesOf(source) {
    if (source.address) {
      const answer = await fetch(source.address);
      if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
      return new Uint8Array(await answer.arrayBuffer());
    }
    return unpacked(fromBase64($(source.block).textContent));
  }

  async function layer(kind, source, options) {
    const bytes = await bytesOf(source);
    const made = await niivue.NVImage.new(bytes.buffer, `${kind}.nii`, "gray", options.opacity, null, options.low, options.high);
    if (options.colors) made.setColormapLabel(options.colors);
    const most = nv.gl.getParameter(nv.gl.MAX_3D_TEXTURE_SIZE), longest = Math.max(...made.hdr.dims.slice(1, 4));
    if (longest > most) throw new Error(`a side of ${longest} voxels; this browser's graphics take ${most}`);
    return made;
  }

  async function open(one) {
    say("loading");
    panel.dataset.ready = "";
    place(one);
    if (shown !== one) hidden = new Set();
    shown = one;
    const opacity = Number($("viewer-opacity").value);
    const made = {};
    for (const [kind, source] of Object.entries(one.sources)) {
      const map = kind !== "image";
      made[kind] = await layer(kind, source, map
        ? { opacity: $(`viewer-${kind}`).checked ? opacity : 0, low: NaN, high: NaN, colors: colorsOf(kind) }
        : { opacity: 1, low: one.windows[0][1], high: one.windows[0][2] });
    }
    quiet = true;
    while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
    layers = made;
    for (const volume of Object.values(made)) nv.addVolume(volume);
    nv.opts.isNearestInterpolation = one.nearest;
    controls(one);
    nv.scene.crosshairPos = nv.mm2frac(one.focus, 0, true);
    quiet = false;
    nv.updateGLVolume();
    nv.createOnLocationChange();
    $("viewer-picture").checked = false;
    $("viewer-picture").onchange?.({ target: $("viewer-picture") });
    say("");
    panel.dataset.ready = "yes";
  }

  function colorsOf(kind) {
    const entries = kind === "disagreement" ? shown.differences : shown.labels;
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const { index, color, name } of entries) {
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
      table.R.push(r); table.G.push(g); table.B.push(b); table.I.push(index); table.labels.push(name);
      table.A.push(kind !== "disagreement" && hidden.has(index) ? 0 : 255);
    }
    return table;
  }

  const element = (name, words = "", values = {}) => Object.assign(document.createElement(name), { textContent: words }, values);

  function controls(one) {
    $("viewer-title").textContent = one.title;
    $("viewer-notes").replaceChildren(...one.notes.map((words) => element("p", words)));
    $("viewer-window").replaceChildren(...one.windows.map(([name], i) => element("option", name, { value: i })));
    setWindow(0);
    for (const kind of ["prediction", "reference", "disagreement"]) {
      $(`viewer-${kind}`).closest("label").hidden = !one.sources[kind];
    }
    const body = $("viewer-legend").tBodies[0];
    body.replaceChildren(...one.labels.map((label) => {
      const row = element("tr"), box = element("input", "", { type: "checkbox", checked: !hidden.has(label.index) });
      const swatch = element("span", "", { className: "swatch" }), name = element("label");
      swatch.style.backgroundColor = label.color;
      name.append(box, swatch, ` ${label.name}`);
      box.onchange = () => { hidden[box.checked ? "delete" : "add"](label.index); recolor(); };
      const find = element("button", "find", { type: "button", disabled: !label.place });
      find.setAttribute("aria-label", `find ${label.name}`);
      find.onclick = () => goTo(label.place);
      row.append(element("td"), ...[label.prediction, label.reference].map((ml) => element("td", ml, { className: "number" })), element("td"));
      row.firstChild.append(name);
      row.lastChild.append(find);
      return row;
    }));
  }

  function recolor() {
    for (const kind of ["prediction", "reference"]) layers[kind]?.setColormapLabel(colorsOf(kind));
    nv.updateGLVolume();
  }

  function setWindow(number, low, high) {
    [low, high] = low === undefined ? shown.windows[number].slice(1) : [low, high];
    $("viewer-low").value = low; $("viewer-high").value = high;
    if (!(low < high)) return say("the window's lower end lies above its upper end");
    say("");
    layers.image.cal_min = low; layers.image.cal_max = high;
    nv.updateGLVolume();
  }

  function setShown() {
    for (const kind of ["prediction", "reference", "disagreement"]) {
      const at = nv.volumes.indexOf(layers[kind]);
      if (at > 0) nv.volumes[at].opacity = $(`viewer-${kind}`).checked ? Number($("viewer-opacity").value) : 0;
    }
    nv.updateGLVolume();
  }

  function goTo(mm) {
    nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
    nv.drawScene();
    nv.createOnLocationChange();
  }

  function showPlace(data) {
    const mm = Array.from(data.mm).slice(0, 3), words = [];
    Object.keys(layers).forEach((kind, i) => {
      const value = data.values[i]?.value;
      if (kind === "image") words.push(`value ${Number(value.toPrecision(4))}`);
      else if (kind !== "disagreement") words.push(`${kind}: ${shown.labels.find(({ index }) => index === value)?.name ?? "none"}`);
    });
    $("viewer-place").textContent = `x ${mm[0].toFixed(2)}  y ${mm[1].toFixed(2)}  z ${mm[2].toFixed(2)} mm (right, anterior, superior)   ${words.join("   ")}`;
  }

  // Letters at the rims of the planes, from the millimetres that the engine itself gives for two points of each plane.
  function mark() {
    const ratio = nv.uiData.dpr || 1, wanted = [];
    (nv.screenSlices ?? []).forEach((slice, i) => {
      if (slice.axCorSag > 2) return;
      const [left, top, width, height] = slice.leftTopWidthHeight;
      const at = (x, y) => nv.screenXY2mm(left + x * width, top + y * height, i);
      const letter = (from, to) => {
        const way = [0, 1, 2].map((axis) => to[axis] - from[axis]);
        const axis = way.reduce((best, value, n) => (Math.abs(value) > Math.abs(way[best]) ? n : best), 0);
        return ["LR", "PA", "IS"][axis][way[axis] > 0 ? 1 : 0];
      };
      const [west, east, north, south] = [at(0.3, 0.5), at(0.7, 0.5), at(0.5, 0.3), at(0.5, 0.7)];
      wanted.push([letter(east, west), left + 4, top + height / 2, "w"], [letter(west, east), left + width - 4, top + height / 2, "e"],
        [letter(south, north), left + width / 2, top + 4, "n"], [letter(north, south), left + width / 2, top + height - 4, "s"]);
    });
    while (marks.length > wanted.length) marks.pop().remove();
    wanted.forEach(([letter, x, y, side], i) => {
      marks[i] ??= stage.appendChild(element("span"));
      marks[i].className = `mark ${side}`;
      marks[i].textContent = letter;
      marks[i].style.left = `${x / ratio}px`; marks[i].style.top = `${y / ratio}px`;
    });
  }

  const STEPS = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopImmediatePropagation(); // the engine's own keys would change what no control shows
    const step = STEPS[event.key], toggle = { p: "prediction", r: "reference", d: "disagreement", c: "crosshair" }[event.key];
    const list = { w: "window", v: "view" }[event.key];
    if (event.type !== "keydown" || !(step || toggle || list)) return;
    event.preventDefault();
    if (step) nv.moveCrosshairInVox(...step);
    if (toggle && !$(`viewer-${toggle}`).closest("label").hidden) $(`viewer-${toggle}`).click();
    if (list) {
      const select = $(`viewer-${list}`);
      select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
      select.dispatchEvent(new Event("change"));
    }
  }

  function wire() {
    for (const kind of ["keydown", "keyup"]) stage.addEventListener(kind, key, true);
    for (const kind of ["prediction", "reference", "disagreement"]) $(`viewer-${kind}`).onchange = setShown;
    $("viewer-opacity").oninput = setShown;
    $("viewer-window").onchange = (event) => setWindow(Number(event.target.value));
    for (const end of ["low", "high"]) $(`viewer-${end}`).onchange = () => setWindow(0, Number($("viewer-low").value), Number($("viewer-high").value));
    $("viewer-view").replaceChildren(...Object.keys(SLICES).map((name) => element("option", name)));
    $("viewer-view").onchange = (event) => nv.setSliceType(SLICES[event.target.value]);
    $("viewer-crosshair").onchange = (event) => nv.setCrosshairWidth(event.target.checked ? CROSSHAIR_MM : 0);
    canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); fail(new Error("the graphics context was lost")); });
    if (cases.length > 1) {
      for (const one of cases) {
        const button = element("button", "Look into this case", { type: "button", className: "look" });
        button.setAttribute("aria-label", `look into ${one.title}`);
        button.onclick = () => open(one).then(() => panel.scrollIntoView({ block: "nearest" })).catch(fail);
        $(one.anchor)?.append(button);
      }
    }
  }

  function fail(error) {
    restore();
    panel.hidden = true;
    panel.dataset.ready = "failed";
    $("viewer-failed").textContent = `The viewer cannot run here: ${error.message}. The pictures and tables show what there is.`;
    $("viewer-failed").hidden = false;
  }

  begin().catch(fail);
})();
