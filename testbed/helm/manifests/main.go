// Manifests renders templates of a chart, each into a file of its own, as they are written: their order and their comments
// stay. Helm's own `template` sorts objects by kind, which tears sections apart.
//
//	manifests CHART VALUES NAMESPACE FOLDER TEMPLATE...
//
// CHART/templates/TEMPLATE becomes FOLDER/TEMPLATE, with the values of the file VALUES in place of the chart's, which are
// checked against its schema as Helm does it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

func main() {
	if len(os.Args) < 6 {
		fail(fmt.Errorf("use: manifests CHART VALUES NAMESPACE FOLDER TEMPLATE..."))
	}
	if err := render(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]); err != nil {
		fail(err)
	}
}

func render(path, valuesFile, namespace, folder string, templates []string) error {
	chart, err := loader.Load(path)
	if err != nil {
		return fmt.Errorf("chart %s: %w", path, err)
	}
	values, err := chartutil.ReadValuesFile(valuesFile)
	if err != nil {
		return fmt.Errorf("values %s: %w", valuesFile, err)
	}
	release := chartutil.ReleaseOptions{Name: "ensign", Namespace: namespace, IsInstall: true, Revision: 1}
	all, err := chartutil.ToRenderValues(chart, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return fmt.Errorf("values %s: %w", valuesFile, err)
	}
	rendered, err := engine.Render(chart, all)
	if err != nil {
		return err
	}
	for _, name := range templates {
		text, found := rendered[chart.Name()+"/templates/"+name]
		if text = strings.TrimSpace(text); !found || text == "" {
			return fmt.Errorf("template %s: rendered nothing; expected objects with the values of %s", name, valuesFile)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "manifests: %v\n", err)
	os.Exit(1)
}
